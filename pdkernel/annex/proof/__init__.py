"""
Proof of an export: the written files and the notebook's workflow run on every saved event and are compared.

    report                 the result of a proof, as data, text and HTML
    record_report          a workflow compared with recorded runs, as data, text and HTML
    prover                 the order of a proof: read back, compare, run both sides, report
    exported_folder        the written folder as a workflow
    definition_comparison  two workflow definitions compared
    cases                  events, their recordings and external users
    excluded_steps         steps that a proof cannot compare, and their dependents
    side_runner            runs a side with replayed calls, a fixed clock, a fixed seed and separate stores
    directory_cache        users and accounts, cached for one proof
    run_comparison         two runs compared
    value_differences      the places where two JSON values differ
    recorded_runs          runs that were recorded at Pipedream, sealed in files
    record_comparison      a workflow compared with its recorded runs

A proof sends no request and does not change the project.
"""
