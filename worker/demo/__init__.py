"""`qbo-refresh demo`: the real worker on embedded servers against the simulator, with trouble, and a checked report."""
