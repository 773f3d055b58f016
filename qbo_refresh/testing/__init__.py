"""For the tests of a host."""
