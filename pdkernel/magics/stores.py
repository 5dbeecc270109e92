"""
`%pdstore`: the project's data stores, and what is in one.

What is shown has been through redaction: a token that a step has put into a store does not come into the notebook.
"""

from __future__ import annotations

from itertools import islice

from IPython.core.magic import Magics, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from pdkernel.clock import iso
from pdkernel.magics.output import plain_errors
from pdkernel.magics.shell import session_of
from pdkernel.render import stores as drawn
from pdkernel.render.view import View
from pdkernel.session import project_redactor

MAX_ROWS = 200


@magics_class
class StoreMagics(Magics):
    """Looking into data stores."""

    @no_var_expand
    @magic_arguments()
    @argument("name", nargs="?", help="the store whose records are shown; without it, the stores")
    @argument("--rows", type=int, default=MAX_ROWS, help=f"how many records are shown (default: {MAX_ROWS})")
    @line_magic
    @plain_errors
    def pdstore(self, line: str) -> None:
        """Show the project's data stores, or the records of one: key, value, expires."""
        chosen = parse_argstring(self.pdstore, line)
        session = session_of(self.shell)
        table = session.project.stores
        if chosen.name is None:
            found = [drawn.StoreLine(each.name, each.keys, each.characters) for each in table.list()]
            display(View(text=drawn.stores_text(found), html=drawn.stores_html(found)))
            return
        table.require(chosen.name)
        redactor = project_redactor(session)
        records = [
            drawn.RecordLine(
                redactor.text(record.key), redactor.value(record.value), iso(record.expires) if record.expires else ""
            )
            for record in islice(table.records(chosen.name), max(chosen.rows, 0))
        ]
        total = table.count(chosen.name)
        display(
            View(
                text=drawn.records_text(chosen.name, records, total=total),
                html=drawn.records_html(chosen.name, records, total=total),
            )
        )
