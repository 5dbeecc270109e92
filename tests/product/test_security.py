"""The table of SECURITY.md, which people read before they trust a server."""

from __future__ import annotations

from pathlib import Path

from pdkernel.workers import Isolation

ROOT = Path(__file__).parents[2]
_WITHOUT = (("namespaces", "Operation not permitted"),)
SYSTEMS = (
    (Isolation(namespaces=True, landlock=True, first_uid=2_000_000_000), True),
    (Isolation(namespaces=True, landlock=True), False),
    (Isolation(landlock=True, reasons=_WITHOUT), False),
    (Isolation.unavailable("there is no such protection"), False),
)
"""The columns: what each system permits, and whether the server's user is root."""


def test_table_has_the_walls_of_each_system() -> None:
    """The rows are the walls, and the columns say where each holds."""
    columns = [isolation.list_walls(is_root=is_root) for isolation, is_root in SYSTEMS]
    expected = [
        [walls[0].attacker, walls[0].cannot, *("yes" if wall.missing is None else "no" for wall in walls)]
        for walls in zip(*columns, strict=True)
    ]

    lines = (ROOT / "SECURITY.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("|---|---|---|---|---|---|")
    table = lines[start + 1 : start + 1 + len(expected)]

    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table] == expected
