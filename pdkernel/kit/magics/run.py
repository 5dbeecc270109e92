"""`%pdrun`, `%pdshape` and `%pdexport`: run the workflow, show the event's shape, write the workflow's files."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.errors import RequestError
from pdkernel.kit.magics.notebook_context import get_session, list_step_kinds
from pdkernel.kit.magics.output import (
    LiveTimeline,
    keep_updated,
    offer_proof,
    offer_save_test,
    parse_arguments,
    raise_on_failure,
    show_errors_as_messages,
    show_message,
    wait_for_pauses,
)
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pdkernel.journal import ExecutionQuery
    from pdkernel.kit.session import Session
    from pdkernel.operations.events import TestEvent

_EVENT_BYTES = 40_000
"""The assumed size of an event file, for the size of the batches in which many are read."""


@magics_class
class RunMagics(Magics):
    """Run the workflow, show events, export."""

    @no_var_expand
    @magic_arguments()
    @argument("step", nargs="?", help="run only this step, with the exports of the steps above")
    @argument("--from", dest="first", metavar="STEP", help="first step to run")
    @argument("--to", dest="last", metavar="STEP", help="last step to run")
    @argument("--stale", action="store_true", help="run the steps whose results are stale")
    @argument("--send", action="store_true", help="repeat outbound calls that were already sent for this event")
    @argument("--users", metavar="all|A,B", help="run once for each of these external users")
    @argument("--skip-waits", action="store_true", help="go on at once where the workflow pauses; implied by --users")
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
        from pdkernel.operations.runs import check_test_options, list_run_users, select_steps, split_names

        chosen = parse_arguments(self.pdrun, line)
        session = get_session(self.shell)
        stale = session.stale_steps if chosen.stale else None
        only = select_steps(
            session.workflow,
            step=chosen.step,
            first=chosen.first,
            last=chosen.last,
            stale=stale,
            known=session.get_exports(),
        )
        users: list[str | None] = [None]
        if chosen.users is not None:
            users = [*list_run_users(chosen.users, session.directory, session.environment)]
        plain = split_names(chosen.plain)
        check_test_options(chosen.save_test, non_secret_names=plain, has_several_users=len(users) > 1)
        executions = []
        for user in users:
            timeline = LiveTimeline(session, only=only)
            execution = session.run(
                only=only,
                resend=chosen.send,
                external_user_id=user,
                skips_waits=chosen.skip_waits or chosen.users is not None or chosen.save_test is not None,
                on_change=timeline.update,
                while_waiting=timeline.tick,
            )
            execution = wait_for_pauses(self.shell, session, timeline, execution)
            keep_updated(self.shell, f"%pdrun {line} {user}", timeline.redraw)
            executions.append(execution)
            if chosen.save_test is None:
                offer_save_test(self.shell, session, execution)
        if chosen.save_test is not None:
            show_message(session.save_as_test(executions[0], chosen.save_test, non_secret_names=plain))
        for execution in executions:
            raise_on_failure(execution)

    @no_var_expand
    @magic_arguments()
    @argument(
        "file",
        nargs="*",
        help="event files, saved events, a folder of them, or a pattern such as issue-*; default: the chosen event",
    )
    @argument("--full", action="store_true", help="print the whole text, not the first ten lines")
    @argument("--diff", action="store_true", help="show the difference of two events; of one and the chosen event")
    @argument(
        "--runs",
        action="store_true",
        help="show the shape of the events of recorded runs; default: of this workflow and the picked external user",
    )
    @argument("--user", "--external-user", metavar="ID", help="with --runs: only runs of this external user")
    @argument("--all", action="store_true", help="with --runs: runs of all external users")
    @argument("--workflow", metavar="NAME", help="with --runs: runs of this workflow")
    @argument("--since", metavar="TIME", help="with --runs: runs that started then or later, such as 2h or yesterday")
    @argument("--limit", type=int, metavar="N", help="with --runs: how many runs, the newest first (default: 1000)")
    @argument(
        "--contract",
        action="store_true",
        help="show the event fields that the steps read, and whether the events have them",
    )
    @line_magic
    @show_errors_as_messages
    def pdshape(self, line: str) -> None:
        """Show the shape of events: every path with types, presence and samples; click a path to copy it."""
        from pdkernel.operations.events import (
            check_shape_options,
            compare_events,
            expand_event_names,
            infer_event_shape,
        )
        from pdkernel.operations.run_history import infer_recorded_shape
        from pdkernel.render import shape as render_shape

        chosen = parse_arguments(self.pdshape, line)
        session = get_session(self.shell)
        filters = {name: getattr(chosen, name) for name in ("user", "workflow", "since", "limit")}
        check_shape_options(
            chosen.file, runs=chosen.runs, diff=chosen.diff, contract=chosen.contract, all_users=chosen.all, **filters
        )
        more = None if chosen.full else " ".join(f"%pdshape {line.strip()} --full".split())
        if chosen.contract:
            display(_build_contract_output(session, chosen.file))
            return
        if chosen.runs:
            query = _build_run_query(session, filters, all_users=chosen.all)
            recorded = session.call_engine(lambda _: infer_recorded_shape(session.project, query))
            display(
                render_shape.render_output(
                    recorded.shape, kinds=list_step_kinds(session), more=more, title=recorded.title
                )
            )
            return
        names = expand_event_names(chosen.file, session.folder)
        if chosen.diff:
            before, after = _load_pair(session, names)
            difference = compare_events(before[1], after[1])
            display(render_shape.render_difference(difference, (before[0], after[0]), more=more))
            return
        if names:
            found = infer_event_shape((session.events.load(name)[1] for name in names), size=_EVENT_BYTES)
        else:
            found = infer_event_shape([_require_event(session)])
        display(render_shape.render_output(found, kinds=list_step_kinds(session), more=more))

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
        """Write the notebook as a workflow's folder, which `pdkernel serve` serves and Pipedream deploys; without --to or --into, show what would be written."""
        from pdkernel.egress import PolicyCell
        from pdkernel.files.definition import slugify
        from pdkernel.operations.export import DRY_RUN_NOTE, Export, check_export_options, export_workflow
        from pdkernel.render import files

        chosen = parse_arguments(self.pdexport, line)
        session = get_session(self.shell)
        check_export_options(to=chosen.to, into=chosen.into, dry_run=chosen.dry_run, prove=chosen.prove)
        source = session.source if chosen.prove else session.source_for_export
        policy = session.outbound_policy
        if policy.origin == "%pdegress":
            cell = PolicyCell(0, policy.mode_text, session.folder)
            source = dataclasses.replace(source, policy_cells=(cell,))
        target = chosen.to or chosen.into
        exported = export_workflow(
            source,
            session.folder / (target or f"exported/{slugify(source.workflow.name)}"),
            is_patch=chosen.into is not None,
            include_docs=chosen.docs,
            dry_run=target is None or chosen.dry_run,
            pinned_steps=tuple(session.pins),
        )
        proof = session.prove_export(exported.folder, is_patch=chosen.into is not None) if chosen.prove else None
        if chosen.as_json:
            print(json.dumps(Export(exported, proof).to_json(), indent=2))
            return
        note = None if exported.is_written else "No file was written. To write the files: %pdexport --to FOLDER"
        if chosen.dry_run:
            note = DRY_RUN_NOTE
        note = " ".join(filter(None, (note, session.describe_edited_steps(source.workflow)))) or None
        where = target or str(exported.folder)
        display(
            RichOutput(
                text=files.render_text(
                    where, exported.files, checklist=exported.checklist, note=note, findings=exported.findings
                ),
                html=files.render_html(
                    where, exported.files, checklist=exported.checklist, note=note, findings=exported.findings
                ),
            )
        )
        if proof is not None:
            display(RichOutput(text=proof.render_text(), html=proof.render_html()))
        if exported.is_written:
            display(files.build_serving_output(exported.serve_command, exported.serve_notes))
        if exported.is_written and proof is None:
            offer_proof(self.shell, session, exported.folder, line.strip(), is_patch=chosen.into is not None)


def _require_event(session: Session) -> TestEvent:
    if session.event is None:
        raise RequestError("No event is chosen.", fix="Choose or write an event: %pdevent")
    return session.event


def _load_pair(session: Session, names: list[str]) -> tuple[tuple[str, TestEvent], tuple[str, TestEvent]]:
    """Return the two events to compare, with their names; after a single name, the chosen event."""
    if len(names) > 2 or not names:
        raise RequestError("--diff compares two events.", fix="%pdshape A B --diff")
    first, *others = (session.events.load(name) for name in names)
    return first, others[0] if others else (session.event_name or "the event", _require_event(session))


def _build_run_query(session: Session, filters: Mapping[str, Any], *, all_users: bool) -> ExecutionQuery:
    """Return the query for runs of this workflow and the picked external user, unless *filters* name others."""
    from pdkernel.operations.run_history import SHAPED_RUNS, build_query

    user = filters["user"]
    return build_query(
        session.project.clock,
        workflow=session.workflow.name if filters["workflow"] is None else filters["workflow"],
        external_user=session.external_user_id if user is None and not all_users else user,
        since=filters["since"],
        limit=filters["limit"] or SHAPED_RUNS,
    )


def _build_contract_output(session: Session, names: list[str]) -> RichOutput:
    """Return the contract, compared with the events *names*; default: the chosen event and all saved events."""
    from pdkernel.operations.events import check_contract
    from pdkernel.render import contract as render_contract

    workflow = session.workflow
    http = workflow.trigger.type == "http"
    events = {name: session.events.load(name, http=http)[1] for name in names}
    if not names and session.event is not None:
        events[session.event_name or "the event"] = session.event
    own_events = session.sidecar.test_events if session.sidecar else ()
    report = check_contract(workflow, session.events, events, include_saved=not names, test_events=own_events)
    return render_contract.render_output(
        report.contract, name=report.workflow, comparisons=report.comparisons, example=report.example
    )
