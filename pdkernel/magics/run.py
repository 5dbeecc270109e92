"""`%pdrun`, `%pdshape` and `%pdexport`: run the workflow, show the event's shape, write the workflow's files."""

from __future__ import annotations

import json
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from pdkernel import definition
from pdkernel.analysis import check_workflow
from pdkernel.errors import RequestError
from pdkernel.magics.live_output import keep_updated
from pdkernel.magics.notebook_context import get_session
from pdkernel.magics.output import (
    LiveTimeline,
    offer_proof,
    offer_save_test,
    raise_on_failure,
    show_errors_as_messages,
    show_message,
)
from pdkernel.operations.events import check_contract, infer_event_shape
from pdkernel.operations.runs import check_test_options, list_run_users, select_steps, split_names
from pdkernel.render import contract as render_contract
from pdkernel.render import files
from pdkernel.render import proof as proofs
from pdkernel.render import shape as render_shape
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session


@magics_class
class RunMagics(Magics):
    """Run the workflow, show events, export."""

    @no_var_expand
    @magic_arguments()
    @argument("step", nargs="?", help="run only this step, with the exports of the steps above")
    @argument("--from", dest="first", metavar="STEP", help="first step to run")
    @argument("--to", dest="last", metavar="STEP", help="last step to run")
    @argument("--send", action="store_true", help="repeat outbound calls that were already sent for this event")
    @argument("--users", metavar="all|A,B", help="run once for each of these external users")
    @argument("--save-test", metavar="NAME", help="save the run as a test beside the notebook: tests/test_NAME.py")
    @argument(
        "--plain",
        metavar="NAME,APP.FIELD",
        help="with --save-test: names that are not secret; their values are written",
    )
    @line_magic
    @show_errors_as_messages
    def pdrun(self, line: str) -> None:
        """Run the workflow, or a part of it, on the chosen event as the chosen external user."""
        chosen = parse_argstring(self.pdrun, line)
        session = get_session(self.shell)
        only = select_steps(session.workflow, step=chosen.step, first=chosen.first, last=chosen.last)
        users: list[str | None] = [None]
        if chosen.users is not None:
            users = [*list_run_users(chosen.users, session.directory, session.environment)]
        plain = split_names(chosen.plain)
        check_test_options(chosen.save_test, non_secret_names=plain, has_several_users=len(users) > 1)
        executions = []
        for user in users:
            timeline = LiveTimeline(session, only=only)
            execution = session.run(only=only, resend=chosen.send, external_user_id=user, on_change=timeline.update)
            timeline.finish(execution)
            keep_updated(self.shell, f"%pdrun {line} {user}", timeline.redraw)
            executions.append(execution)
            if chosen.save_test is None:
                offer_save_test(self.shell, session, execution)
        if chosen.save_test is not None:
            from pdkernel.session.snapshot_test import save_snapshot_test

            show_message(save_snapshot_test(session, executions[0], chosen.save_test, non_secret_names=plain))
        for execution in executions:
            raise_on_failure(execution)

    @no_var_expand
    @magic_arguments()
    @argument("file", nargs="*", help="event files or saved events; default: the chosen event")
    @argument(
        "--contract",
        action="store_true",
        help="show the event fields that the steps read, and whether the events have them",
    )
    @line_magic
    @show_errors_as_messages
    def pdshape(self, line: str) -> None:
        """Show an event's shape: every path with types and samples; click a path to copy it."""
        chosen = parse_argstring(self.pdshape, line)
        session = get_session(self.shell)
        if chosen.contract:
            display(_build_contract_output(session, chosen.file))
            return
        if chosen.file:
            events = [session.events.load(name)[1] for name in chosen.file]
        elif session.event is not None:
            events = [session.event]
        else:
            raise RequestError("No event is chosen.", fix="Choose or write an event: %pdevent")
        found = infer_event_shape(events)
        display(RichOutput(text=render_shape.render_text(found), html=render_shape.render_html(found)))

    @no_var_expand
    @magic_arguments()
    @argument("--to", metavar="FOLDER", help="write the workflow's folder")
    @argument("--into", metavar="FOLDER", help="patch a folder that Pipedream synced; try --dry-run first")
    @argument("--docs", action="store_true", help="also write README.md; with --into also pdkernel.yaml")
    @argument("--dry-run", action="store_true", help="show the changes without writing files")
    @argument(
        "--prove", action="store_true", help="run the written files and the notebook on every saved event, and compare"
    )
    @argument("--json", action="store_true", dest="as_json", help="print the result as JSON")
    @line_magic
    @show_errors_as_messages
    def pdexport(self, line: str) -> Any:
        """Write the notebook as the files that Pipedream deploys; without --to or --into, show what would be written."""
        chosen = parse_argstring(self.pdexport, line)
        session = get_session(self.shell)
        workflow = (session.source if chosen.prove else session.source_for_export).workflow
        check_workflow(workflow, to_run=False)
        if chosen.to is not None and chosen.into is not None:
            raise RequestError(
                "--to and --into exclude each other.",
                fix="Use --to FOLDER for a new folder, or --into FOLDER for a folder that Pipedream synced.",
            )
        if chosen.prove and (chosen.dry_run or not (chosen.to or chosen.into)):
            raise RequestError(
                "--prove needs written files, and this export writes none.", fix="%pdexport --to FOLDER --prove"
            )
        export = definition.export_to_folder if chosen.into is None else definition.export_to_synced_folder
        target = chosen.to or chosen.into
        folder = session.folder / (target or f"exported/{definition.slugify(workflow.name)}")
        result = export(
            workflow,
            folder,
            pinned_steps=tuple(session.pins),
            sidecar=session.sidecar,
            include_readme=chosen.docs,
            dry_run=target is None or chosen.dry_run,
        )
        proof = None
        if chosen.prove:
            from pdkernel.session.export_proof import prove_export

            proof = prove_export(session, result.folder, into=chosen.into is not None)
        if chosen.as_json:
            print(json.dumps({**result.to_json(), **({"proof": proof.to_json()} if proof else {})}, indent=2))
            return
        note = None if result.is_written else "No file was written. To write the files: %pdexport --to FOLDER"
        if chosen.dry_run:
            note = "No file was written: --dry-run shows the changes only."
        where = target or str(folder)
        display(
            RichOutput(
                text=files.render_text(
                    where, result.files, checklist=result.checklist, note=note, findings=result.findings
                ),
                html=files.render_html(
                    where, result.files, checklist=result.checklist, note=note, findings=result.findings
                ),
            )
        )
        if proof is not None:
            display(RichOutput(text=proofs.render_text(proof), html=proofs.render_html(proof)))
        elif result.is_written:
            offer_proof(self.shell, session, result.folder, line.strip(), into=chosen.into is not None)


def _build_contract_output(session: Session, names: list[str]) -> RichOutput:
    """The contract, compared with the events *names*; default: the chosen event and all saved events."""
    workflow = session.workflow
    http = workflow.trigger.type == "http"
    events = {name: session.events.load(name, http=http)[1] for name in names}
    if not names and session.event is not None:
        events[session.event_name or "the event"] = session.event
    report = check_contract(workflow, session.events, events, include_saved=not names)
    return render_contract.render_output(
        report.contract, name=report.workflow, comparisons=report.comparisons, example=report.example
    )
