"""
The command line.

Each command's act is in the rooms below; this is how a person calls it from a terminal.
"""
