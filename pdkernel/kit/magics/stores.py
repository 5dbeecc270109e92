"""
`%pdstore`: list the project's data stores, or show the records of a store.

The output is redacted: a token that a step has put into a store does not appear in the notebook.
"""

from __future__ import annotations

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.errors import RequestError
from pdkernel.kit.magics.arguments import parse_arguments
from pdkernel.kit.magics.notebook_context import get_session
from pdkernel.kit.magics.output import show_errors_as_messages, show_message
from pdkernel.render.markup import RichOutput

MAX_ROWS = 200


@magics_class
class StoreMagics(Magics):
    """Show data stores."""

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", help="the store to show; without it, list the stores")
    @argument(
        "--scratch",
        action="store_true",
        help="show the scratch copy, which the steps write unless the outbound policy is live",
    )
    @argument("--rows", type=int, default=MAX_ROWS, help=f"number of records to show (default: {MAX_ROWS})")
    @line_magic
    @show_errors_as_messages
    def pdstore(self, line: str) -> None:
        """List the project's data stores, or show the records of a store: key, value, expires."""
        from pdkernel.common.redaction import Redactor
        from pdkernel.engine.account_resolution import collect_secrets
        from pdkernel.operations.stores import list_stores, view_store
        from pdkernel.render import stores as stores_view

        chosen = parse_arguments(self.pdstore, line)
        session = get_session(self.shell)
        copy, stores = session.scratch_copy, session.project.data_stores
        is_missing = copy is not None and chosen.name in copy.changed_stores() and not stores.exists(chosen.name)
        if is_missing and not chosen.scratch:
            raise RequestError(
                f"There is no data store {chosen.name!r}: the steps have written a scratch copy.",
                fix=f"To show the copy: %pdstore {chosen.name} --scratch",
            )
        table = copy if chosen.scratch else stores
        if table is None or (chosen.scratch and chosen.name is None and not list_stores(table)):
            show_message("The steps have written no scratch copy of a data store.")
            return
        if chosen.name is None:
            found = list_stores(table)
            display(RichOutput(text=stores_view.render_stores_text(found), html=stores_view.render_stores_html(found)))
            return
        redactor = Redactor(collect_secrets(session.project, session.folder))
        shown = view_store(table, chosen.name, limit=max(chosen.rows, 0), redactor=redactor)
        display(
            RichOutput(
                text=stores_view.render_records_text(shown.name, shown.rows, total=shown.total),
                html=stores_view.render_records_html(shown.name, shown.rows, total=shown.total),
            )
        )
