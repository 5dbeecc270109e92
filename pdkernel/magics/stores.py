"""
`%pdstore`: list the project's data stores, or show the records of a store.

The output is redacted: a token that a step has put into a store does not appear in the notebook.
"""

from __future__ import annotations

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from IPython.display import display

from pdkernel.magics.arguments import parse_arguments
from pdkernel.magics.notebook_context import get_session
from pdkernel.magics.output import show_errors_as_messages
from pdkernel.render.rich_output import RichOutput

MAX_ROWS = 200


@magics_class
class StoreMagics(Magics):
    """Show data stores."""

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", help="the store to show; without it, list the stores")
    @argument("--rows", type=int, default=MAX_ROWS, help=f"number of records to show (default: {MAX_ROWS})")
    @line_magic
    @show_errors_as_messages
    def pdstore(self, line: str) -> None:
        """List the project's data stores, or show the records of a store: key, value, expires."""
        from pdkernel.engine.account_resolution import collect_secrets
        from pdkernel.operations.stores import list_stores, view_store
        from pdkernel.redaction import Redactor
        from pdkernel.render import stores as stores_view

        chosen = parse_arguments(self.pdstore, line)
        session = get_session(self.shell)
        table = session.project.data_stores
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
