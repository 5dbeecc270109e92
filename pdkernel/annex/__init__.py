"""
What the core does not need, and never imports: the move away from Pipedream, proofs of exports, and runs saved as tests.

Each package can be deleted without a change of the core.
"""
