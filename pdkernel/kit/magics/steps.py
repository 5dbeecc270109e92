"""
`%%pdstep`, `%%pdif`, `%%pdswitch`, `%%pdparallel` and `%%pdworkflow`: the cells of the workflow. `%pdactions` finds actions and writes the cell of an action step.

The directive's grammar is in `pdkernel.language.directive`. Every search and every option of `%pdactions` works without a
widget; without arguments, it shows a form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.engine.variables import load_variables
from pdkernel.errors import DirectiveError, PdkernelError, RequestError
from pdkernel.kit.magics.notebook_context import (
    get_cell_metadata,
    get_cell_number,
    get_cell_source,
    get_session,
    remove_added_newline,
)
from pdkernel.kit.magics.output import (
    LiveTimeline,
    ProgressNote,
    parse_arguments,
    raise_on_failure,
    show_button,
    show_errors_as_messages,
    show_message,
    wait_for_pauses,
)
from pdkernel.language.directive import STEP_OPTIONS, describe_emitters, parse_block_cell, parse_step_cell
from pdkernel.model import Trigger, check_step_name
from pdkernel.render import actions as draw
from pdkernel.render.markup import RichOutput

if TYPE_CHECKING:
    from pdkernel.execution import Execution

_NEXT = "%pdactions --form KEY shows a form for an action, %pdactions KEY its props and the cell of a step."


@magics_class
class StepMagics(Magics):
    """Cells that are steps or blocks, and the header cell."""

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        self._shown: dict[str, LiveTimeline] = {}
        self._edited: set[str] = set()

    @no_var_expand
    @cell_magic
    @show_errors_as_messages
    def pdstep(self, line: str, cell: str) -> None:
        """Set below, from the directive's options."""
        from pdkernel.files.notebook import build_output_metadata

        text = remove_added_newline(self.shell, get_cell_source("pdstep", line, cell))
        metadata = build_output_metadata(text)
        self._register_cell(text)  # also a text with an error: a run must not take the earlier text
        parsed = parse_step_cell(text)
        session = get_session(self.shell)
        name = parsed.step.name
        if parsed.no_run or parsed.step.disabled or name in session.pins or session.event is None:
            self._show_registered(name, metadata, no_run=parsed.no_run)
            return
        timeline = LiveTimeline(session, only=[name], metadata=metadata)
        execution = session.run(only=frozenset({name}), on_change=timeline.update, while_waiting=timeline.tick)
        execution = wait_for_pauses(self.shell, session, timeline, execution)
        self._mark_stale(name, timeline)
        raise_on_failure(execution)

    @no_var_expand
    @cell_magic
    @show_errors_as_messages
    def pdworkflow(self, line: str, cell: str) -> None:
        """
        The workflow's header, as YAML: name, trigger (or triggers), settings.

        ::

            %%pdworkflow
            name: Open issue to Slack
            trigger:
              type: http        # http | schedule | email | source | errors | emit
              auth: none        # none | bearer | oauth
              response: custom  # default | custom
            settings:
              lambda_timeout: 40
        """
        self._register_cell(remove_added_newline(self.shell, get_cell_source("pdworkflow", line, cell)))
        workflow = get_session(self.shell).workflow
        if workflow.problem is not None:
            raise DirectiveError("\n".join(workflow.problem))
        trigger = workflow.trigger
        show_message(f"Workflow {workflow.name!r}: {trigger.type} trigger, {_describe_trigger(trigger)}.")

    @no_var_expand
    @cell_magic
    @show_errors_as_messages
    def pdif(self, line: str, cell: str) -> None:
        """
        A block of which the first branch runs whose condition holds: JavaScript, or rules of the platform.

        ::

            %%pdif NAME [--in BLOCK.BRANCH]
            urgent: steps.check.$return_value.amount >= 1000
            large:
              t: or
              r:
              - {a: {{steps.check.$return_value.items}}, op: num>, b: 10}
              - {a: {{steps.check.$return_value.country}}, op: str=, b: DE}
            else:

            %%pdstep page --in NAME.urgent

        After the block, `steps.NAME.$return_value` has the exports of the last step of the branch. Running the cell registers the
        block, and shows the outline of the workflow.
        """
        self._show_block("pdif", line, cell)

    @no_var_expand
    @cell_magic
    @show_errors_as_messages
    def pdswitch(self, line: str, cell: str) -> None:
        """
        A block of which the first branch runs whose value equals that of the expression; values are YAML.

        ::

            %%pdswitch NAME [--in BLOCK.BRANCH]
            expression: steps.user.$return_value.plan
            free: free
            team: {t: or, r: [{op: str=, b: team}, {op: str^, b: company-}]}
            default:
        """
        self._show_block("pdswitch", line, cell)

    @no_var_expand
    @cell_magic
    @show_errors_as_messages
    def pdparallel(self, line: str, cell: str) -> None:
        """
        A block of which all branches run at once that always run, or whose condition holds.

        ::

            %%pdparallel NAME [--in BLOCK.BRANCH]
            email: always
            sms: steps.user.$return_value.phone != null
            log: never

        After the block, `steps.NAME.$return_value` has a key for each branch that ran.
        """
        self._show_block("pdparallel", line, cell)

    def _show_block(self, magic: str, line: str, cell: str) -> None:
        """Register the block of a cell, and show where it is in the workflow; then raise what is wrong with it."""
        from pdkernel.files.notebook import build_output_metadata
        from pdkernel.language.analysis import check_block
        from pdkernel.render.outline import render_outline

        text = remove_added_newline(self.shell, get_cell_source(magic, line, cell))
        self._register_cell(text)
        name = parse_block_cell(text).name
        workflow = get_session(self.shell).workflow
        outline = render_outline(workflow, name)
        display(replace(outline, metadata=build_output_metadata(text)))
        check_block(workflow, name)

    def _mark_stale(self, name: str, timeline: LiveTimeline) -> None:
        """Draw the timelines of stale later steps again, and name stale steps without a timeline."""
        session = get_session(self.shell)
        if not self._shown:
            session.add_listener(self._mark_edited)
        self._shown[name] = timeline
        stale = [step.name for step in session.workflow.steps_after(name) if step.name in session.stale_steps]
        for below in stale:
            if below in self._shown:
                self._shown[below].redraw()
        unseen = [below for below in stale if below not in self._shown]
        if stale and getattr(self.shell, "kernel", None) is not None:
            from pdkernel.kit.widgets import StaleStepsButton

            show_button(self.shell, StaleStepsButton(stale, self.run_stale))
        elif unseen:
            show_message(f"Stale: {', '.join(unseen)}. To run them again: %pdrun --stale")

    def _mark_edited(self) -> None:
        """Draw the timelines of the steps again if a step was edited, or an edit was undone."""
        with suppress(PdkernelError):  # an invalid workflow is reported by its own cell
            edited = get_session(self.shell).find_edited_steps()
            if edited != self._edited:
                self._edited = edited
                for timeline in self._shown.values():
                    timeline.redraw()

    def run_stale(self) -> Execution:
        """Run the stale steps, and draw their results below their own cells."""
        from pdkernel.operations.runs import select_steps

        session = get_session(self.shell)
        only = select_steps(session.workflow, stale=session.stale_steps, known=session.get_exports())
        execution = session.run(only=only)
        for name, timeline in self._shown.items():
            if only is not None and name in only:
                timeline.finish(execution)
        return execution

    def _register_cell(self, text: str) -> None:
        session = get_session(self.shell)
        metadata = get_cell_metadata(self.shell)
        first = not getattr(self.shell, "_pdkernel_requirements_shown", False)
        session.remove_cells(list(metadata.get("deletedCells") or ()))
        session.record_cell(text, cell_id=metadata.get("cellId"), execution_count=get_cell_number(self.shell))
        if first:
            self.shell._pdkernel_requirements_shown = True  # noqa: SLF001 (an attribute that pdkernel owns)
            self._show_missing_requirements()

    def _show_missing_requirements(self) -> None:
        """Report the project's missing requirements, once per kernel."""
        from pdkernel.operations import readiness

        session = get_session(self.shell)
        named = session.sidecar.test_users if session.sidecar else ()
        missing = readiness.find_missing_requirements(
            session.workflow,
            directory=session.directory,
            catalog=session.catalog,
            variables=load_variables(session.project, session.folder),
            users=tuple(
                dict.fromkeys(named if session.external_user_id is None else (*named, session.external_user_id))
            ),
            environment=session.environment,
        )
        if missing:
            accounts = any(each.kind in ("external_user", "account") for each in missing)
            form = "\nTo connect accounts in a form: %pduser" if accounts else ""
            show_message("This project is missing:\n" + readiness.format_missing_requirements(missing) + form)

    def _show_registered(self, name: str, metadata: Mapping[str, Any], *, no_run: bool) -> None:
        session = get_session(self.shell)
        workflow = session.workflow
        place = [step.name for step in workflow.steps].index(name) + 1
        if workflow.step(name).disabled:
            why = "It is disabled."
        elif name in session.pins:
            why = f"It is pinned: later steps get the pinned exports. To release the pin: %pdpin --clear {name}"
        elif no_run:
            why = "It was not run (--no-run)."
        else:
            why = "To run it, choose an event: %pdevent"
        show_message(f"Step {name} is step {place} of {len(workflow.steps)}. {why}", metadata=metadata)


def _describe_trigger(trigger: Trigger) -> str:
    if trigger.type in ("errors", "emit"):
        return f"of {describe_emitters(trigger)}"
    if trigger.type != "http":
        settings = [f"{key} {value}" for key, value in trigger.config.items() if key != "for_each"]
        if trigger.for_each is not None:
            settings.append(f"for {trigger.for_each}")
        return ", ".join(settings) or "no settings"
    who = {"none": "no authorization", "bearer": "bearer token required", "oauth": "OAuth client required"}
    answer = {"default": "default response", "custom": "the workflow responds"}
    return f"{who[trigger.auth]}, {answer[trigger.response]}"


def _usage() -> str:
    rows = "\n".join(f"      {f'{each.flag} {each.metavar or str()}'.strip():<32} {each.help}" for each in STEP_OPTIONS)
    return f"""
    One step of the workflow: the text below this line is the content of the step's file.

    ::

      %%pdstep NAME [options]

{rows}

    Python defines `handler(pd)`, Node.js exports `defineComponent({{...}})` by default, Bash reads $PIPEDREAM_STEPS and
    appends to $PIPEDREAM_EXPORTS, Go is `package main` and imports github.com/PipedreamHQ/pipedream-go. With --uses the body is the action's props as YAML.
    Running the cell runs the step alone, on the chosen event, with the exports of the steps above.
    """


StepMagics.pdstep.__doc__ = _usage()


@magics_class
class ActionMagics(Magics):
    """Pre-built actions."""

    @no_var_expand
    @magic_arguments()
    @argument("words", nargs="*", help="words to search for, or KEY[@VERSION] to use that action")
    @argument("--app", metavar="SLUG", help="show only actions of this app")
    @argument("--name", metavar="STEP", help="name of the new step")
    @argument("--form", metavar="STEP|KEY", help="show the form of this step, or of a new step that uses this action")
    @argument(
        "--options",
        metavar=("STEP", "PROP"),
        nargs=2,
        help="list the options of a prop, with the chosen user's account",
    )
    @argument("--query", metavar="WORDS", help="with --options: text to search for")
    @argument("--page", metavar="N", type=int, default=0, help="with --options: the page, from 0")
    @line_magic
    @show_errors_as_messages
    def pdactions(self, line: str) -> Any:
        """
        Search pre-built actions; with a key, show its props and write the cell that uses it.

        Without arguments, show a form that searches, fills in the props, and writes the cell.
        """
        chosen = parse_arguments(self.pdactions, line)
        if not line.strip() or chosen.form is not None:
            from pdkernel.kit.widgets import ActionForm

            return ActionForm(get_session(self.shell), chosen.form)
        if chosen.options is not None:
            self._options(*chosen.options, query=chosen.query, page=chosen.page)
        elif len(chosen.words) == 1 and "-" in chosen.words[0]:
            self._use(chosen.words[0], chosen.name)
        else:
            self._search(" ".join(chosen.words), chosen.app)
        return None

    def _search(self, words: str, app: str | None) -> None:
        from pdkernel.actions.action_view import build_action_view
        from pdkernel.kit.session import actions

        session = get_session(self.shell)
        with ProgressNote() as progress:
            search = actions.search(session, words, app=app, progress=progress)
        if not search.components:
            show_message(search.advice)
            return
        found = [build_action_view(component) for component in search.components]
        display(
            RichOutput(text=f"{draw.render_list_text(found)}{_NEXT}\n", html=draw.render_list_html(found, hint=_NEXT))
        )

    def _use(self, uses: str, name: str | None) -> None:
        from pdkernel.actions.action_view import build_action_view
        from pdkernel.kit.session import actions

        session = get_session(self.shell)
        with ProgressNote() as progress:
            component, description = actions.describe(session, uses, progress=progress)
        step = check_step_name(name) if name else actions.suggest_step_name(session, component.key)
        view = build_action_view(component, description, name=step)
        display(RichOutput(text=draw.render_text(view), html=draw.render_html(view)))
        show_message(
            f"The step's cell is below. To fill in its props with a form: run the cell, then %pdactions --form {step}"
        )
        self.shell.set_next_input(view.cell)

    def _options(self, step: str, prop: str, *, query: str | None, page: int) -> None:
        from pdkernel.kit.session import actions
        from pdkernel.workers import OptionsQuery

        session = get_session(self.shell)
        if page < 0:
            raise RequestError("--page is below 0.", fix="Pass 0 for the first page.")
        # a page may need the context of the page before: load all previous pages again
        context, found = None, None
        for number in range(page + 1):
            found = actions.fetch_options(session, step, prop, query=OptionsQuery(number, context, query))
            context = found.context
        assert found is not None
        lines = [f"{json.dumps(option.value, ensure_ascii=False)}  {option.label}" for option in found.options]
        if found.empty_reason:
            lines.append(found.empty_reason)
        show_message("\n".join(lines) or "No options.")
