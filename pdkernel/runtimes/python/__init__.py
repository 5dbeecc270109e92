"""The program of a Python worker, and what a Python step can call. Standard library only."""
