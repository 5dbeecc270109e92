"""
What a person can ask for, written once: interfaces parse the arguments, call an operation and print its result.

    actions  the search for pre-built actions, and their descriptions
    events   saved events, the shape of events, and their check against a workflow's contract
    export   the files that Pipedream deploys, and their proof
    runs     requests for runs: steps, external users, pins; runs saved as tests
    sources  event sources that trigger workflows
    stores   views of data stores

An operation takes a project, a directory or a workflow, and values. It returns values, and raises `PdkernelError`.
"""
