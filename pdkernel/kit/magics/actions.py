"""
`%pdactions`: search for pre-built actions, write the cell of an action step, and list prop options.

Every search and every option works without a widget. Without arguments, `%pdactions` shows a form.
"""

from __future__ import annotations

import json
from typing import Any

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.errors import RequestError
from pdkernel.kit.magics.arguments import parse_arguments
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import ProgressNote, show_errors_as_messages, show_message
from pdkernel.model import check_step_name
from pdkernel.render import actions as draw
from pdkernel.render.markup import RichOutput

_NEXT = "%pdactions --form KEY shows a form for an action, %pdactions KEY its props and the cell of a step."


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

        session = get_session(self.shell)
        if page < 0:
            raise RequestError("--page is below 0.", fix="Pass 0 for the first page.")
        # a page may need the context of the page before: load all previous pages again
        context, found = None, None
        for number in range(page + 1):
            found = actions.fetch_options(session, step, prop, query=query, page=number, context=context)
            context = found.context
        assert found is not None
        lines = [f"{json.dumps(option.value, ensure_ascii=False)}  {option.label}" for option in found.options]
        if found.empty_reason:
            lines.append(found.empty_reason)
        show_message("\n".join(lines) or "No options.")
