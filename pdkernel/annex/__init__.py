"""
What the core does not need: the move away from Pipedream, proofs of exports, and runs saved as tests.

The core imports these packages through the doors that `pyproject.toml` names. Each can be deleted with its doors.
"""
