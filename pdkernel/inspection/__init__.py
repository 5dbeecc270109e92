"""
What a step says of itself without being run.
"""
