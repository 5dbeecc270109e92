"""
Proof of an export: the written files and the notebook's workflow run on every saved event and are compared.

    prover             the order of a proof: read back, compare, run both sides, report
    side_runner        a side: its workflow, the cases, and their runs with replayed calls, a fixed clock and separate stores
    comparison         two definitions, two runs or two values compared
    report             the results of a proof and of a comparison with recorded runs, as data, text and HTML
    recorded_runs      runs that were recorded at Pipedream, sealed in files
    record_comparison  a workflow compared with its recorded runs

A proof sends no request and does not change the project.
"""
