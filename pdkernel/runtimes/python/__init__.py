"""The program of a Python worker, and the API that a Python step calls. It uses only the standard library."""
