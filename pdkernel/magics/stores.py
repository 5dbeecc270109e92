"""
`%pdstore`: list the project's data stores, or show the records of a store.

The output is redacted: a token that a step has put into a store does not appear in the notebook.
"""

from __future__ import annotations

from itertools import islice

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from pdkernel.clock import format_iso
from pdkernel.magics.notebook_context import get_session
from pdkernel.magics.output import show_errors_as_messages
from pdkernel.redaction import Redactor
from pdkernel.render import stores as drawn
from pdkernel.render.rich_output import RichOutput
from pdkernel.variables import collect_secrets

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
        chosen = parse_argstring(self.pdstore, line)
        session = get_session(self.shell)
        table = session.project.data_stores
        if chosen.name is None:
            found = [drawn.StoreSummary(each.name, each.record_count, each.characters) for each in table.list_stores()]
            display(RichOutput(text=drawn.render_stores_text(found), html=drawn.render_stores_html(found)))
            return
        table.require(chosen.name)
        redactor = Redactor(collect_secrets(session.project, session.folder))
        records = [
            drawn.RecordRow(
                redactor.redact_text(record.key),
                redactor.redact_value(record.value),
                format_iso(record.expires) if record.expires else "",
            )
            for record in islice(table.iter_records(chosen.name), max(chosen.rows, 0))
        ]
        total = table.count(chosen.name)
        display(
            RichOutput(
                text=drawn.render_records_text(chosen.name, records, total=total),
                html=drawn.render_records_html(chosen.name, records, total=total),
            )
        )
