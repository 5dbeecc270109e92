"""
`%%pdstep` and `%%pdworkflow`: cells that are the workflow.

Knows how a cell reaches the session and runs. The grammar is `directive`'s, the run is the session's.
"""

from __future__ import annotations

from typing import Any

from IPython.core.magic import Magics, cell_magic, magics_class, no_var_expand

from pdkernel import readiness
from pdkernel.directive import OPTIONS, parse_step_cell, parse_workflow_cell
from pdkernel.magics.cells import original_cell
from pdkernel.magics.output import LiveTimeline, plain_errors, raise_for, say
from pdkernel.magics.shell import as_sent, cell_metadata, session_of
from pdkernel.variables import project_variables


@magics_class
class StepMagics(Magics):
    """Cells that are steps, and the header cell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shown: dict[str, LiveTimeline] = {}

    @no_var_expand
    @cell_magic
    @plain_errors
    def pdstep(self, line: str, cell: str) -> None:
        """Doc string set below, from the directive's own options."""
        text = as_sent(self.shell, original_cell("pdstep", line, cell))
        parsed = parse_step_cell(text)
        self._take(text)
        session = session_of(self.shell)
        name = parsed.step.name
        if parsed.no_run or parsed.step.disabled or name in session.pins or session.event is None:
            self._say_registered(name, parsed.no_run)
            return
        timeline = LiveTimeline(session, only=[name])
        execution = session.run(only=frozenset({name}), on_change=timeline.update)
        timeline.finish(execution)
        self._mark_stale(name, timeline)
        raise_for(execution)

    @no_var_expand
    @cell_magic
    @plain_errors
    def pdworkflow(self, line: str, cell: str) -> None:
        """
        The workflow's header, as YAML: name, trigger (or triggers), settings.

        ::

            %%pdworkflow
            name: Open issue to Slack
            trigger:
              type: http        # http | schedule | email | source
              auth: none        # none | bearer | oauth
              response: custom  # default | custom
            settings:
              lambda_timeout: 40
        """
        text = as_sent(self.shell, original_cell("pdworkflow", line, cell))
        parse_workflow_cell(text)
        self._take(text)
        workflow = session_of(self.shell).workflow
        trigger = workflow.trigger
        say(f"Workflow {workflow.name!r}: {trigger.type} trigger, {_trigger_words(trigger)}.")

    def _mark_stale(self, name: str, timeline: LiveTimeline) -> None:
        """Mark the steps below that are stale now where they were shown; name those that were not."""
        session = session_of(self.shell)
        self._shown[name] = timeline
        stale = [step.name for step in session.workflow.after(name) if step.name in session.stale]
        for below in stale:
            if below in self._shown:
                self._shown[below].draw_again()
        unseen = [below for below in stale if below not in self._shown]
        if unseen:
            say(f"Stale now: {', '.join(unseen)}. Run them again with %pdrun --from {stale[0]}.")

    def _take(self, text: str) -> None:
        session = session_of(self.shell)
        metadata = cell_metadata(self.shell)
        first = not getattr(self.shell, "_pdkernel_greeted", False)
        session.cells_deleted(list(metadata.get("deletedCells") or ()))
        session.cell_ran(text, cell_id=metadata.get("cellId"))
        if first:
            self.shell._pdkernel_greeted = True  # noqa: SLF001 (our own mark on the shell)
            self._say_missing()

    def _say_missing(self) -> None:
        """Once a kernel: what this project lacks, so that a colleague's clone says what it needs."""
        session = session_of(self.shell)
        named = session.sidecar.test_users if session.sidecar else ()
        missing = readiness.find_missing(
            session.workflow,
            directory=session.directory,
            variables=project_variables(session.project, session.folder),
            users=tuple(
                dict.fromkeys(named if session.external_user_id is None else (*named, session.external_user_id))
            ),
            environment=session.environment,
        )
        if missing:
            accounts = any(each.kind in ("external_user", "account") for each in missing)
            form = "\nAccounts can also be connected in the form of %pduser." if accounts else ""
            say("This project still needs:\n" + readiness.describe_missing(missing) + form)

    def _say_registered(self, name: str, no_run: bool) -> None:
        session = session_of(self.shell)
        workflow = session.workflow
        place = [step.name for step in workflow.steps].index(name) + 1
        if workflow.step(name).disabled:
            why = "It is disabled."
        elif name in session.pins:
            why = f"It is pinned: steps below get the pinned exports. Release it with %pdpin --clear {name}."
        elif no_run:
            why = "It was not run (--no-run)."
        else:
            why = "Choose an event with %pdevent to run it."
        say(f"Step {name} is step {place} of {len(workflow.steps)}. {why}")


def _trigger_words(trigger: Any) -> str:
    if trigger.type != "http":
        return ", ".join(f"{key} {value}" for key, value in trigger.config.items()) or "no settings"
    who = {"none": "anyone may call it", "bearer": "a bearer token may call it", "oauth": "OAuth clients may call it"}
    answer = {"default": "it answers by itself", "custom": "the workflow answers"}
    return f"{who[trigger.auth]}, {answer[trigger.response]}"


def _usage() -> str:
    rows = "\n".join(f"      {f'{each.flag} {each.metavar or str()}'.strip():<32} {each.help}" for each in OPTIONS)
    return f"""
    One step of the workflow: the cell below this line is exactly what the step's file holds.

    ::

      %%pdstep NAME [options]

{rows}

    Python defines `handler(pd)`, Node.js exports `defineComponent({{...}})` by default, Bash reads $PIPEDREAM_STEPS and
    appends to $PIPEDREAM_EXPORTS, Go is `package main` and imports github.com/PipedreamHQ/pipedream-go. With --uses the body is the action's props as YAML.
    Running the cell tests the step alone, on the chosen event, with the exports of the steps above.
    """


StepMagics.pdstep.__doc__ = _usage()
