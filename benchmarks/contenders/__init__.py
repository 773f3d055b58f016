"""What is measured: each module is the program of one process. They know nothing of each other."""
