"""
What a person can ask for, written once: interfaces parse the arguments, call an operation and print its result.

    events   saved events, the shape of events, and their check against a workflow's contract
    runs     requests for runs: steps, external users, pins; runs saved as tests
    sources  event sources that trigger workflows

An operation takes a project, a directory or a workflow, and values. It returns values, and raises `PdkernelError`.
"""
