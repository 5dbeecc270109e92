"""
The move of a team's workflows away from Pipedream.

A package of its own: the report, the data and the events of a move share the platform's REST API, its ids and its deadlines. It is written
to be deleted after April 30, 2027, when Pipedream deletes the data of Workflows: nothing can be recorded or rescued then. What is recorded can
still be compared, so the comparison (`proof.record_comparison`, `proof.recorded_runs`, `operations.records`, `pd_records`)
may stay longer. With this package, delete its doors:

    cli.migrate, cli.migrate_record,             the commands, and their lines in `cli` and the section in `cli.app`
        cli.migrate_shadow, cli.migrate_urls
    accounts.sdk: WorkflowApi                    the REST API of workflows
    templates/record_step.mjs, dump_step.mjs     the steps for Pipedream
    tests, pages                                 tests/annex/migration, tests/cli/test_migrate*.py, docs/how-to/record.md, move-away.md

    sources           workflows in Git folders, in archives and behind the REST API, for the report
    items             what a team must act on, workflow by workflow
    report            the whole report: rows, shared resources and the order of the move
    migration_report  the report as data and text
    plan              the plan of a move: order, days, blockers, licences; as text, table, CSV and calendar file
    pages             report, plan and comparison as HTML pages
    data_dump         a step that hands out data stores and files at Pipedream, the download of its pages, and saved events
    endpoint_urls     URLs of endpoints at Pipedream: whose they are, what takes their place, and where they are in a text
    url_rewrite       the files, variables and data stores with such URLs; writing all of them or none, and undoing it
    record_steps      steps that record what a workflow does at Pipedream, written into synced folders
    collection        the endpoint that receives their entries, and entries paired to recorded runs
    shadow            recorded runs compared as they arrive, and the results by workflow and step
"""
