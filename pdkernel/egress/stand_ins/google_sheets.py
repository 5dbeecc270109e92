"""
Stand-in for Google Sheets' API v4: `values.get`, `values.append` and `values.update`, as in Google's documentation.

It stores written rows, so that a workflow can read the rows that it wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote

from pdkernel.egress.stand_ins.base import ReceivedRequest, StandIn, StandInAnswer, parse_json_body, shorten

_VALUES = re.compile(r"/v4/spreadsheets/(?P<id>[\w-]+)/values/(?P<range>[^/]+)\Z")
# as many columns as Google's, and rows that fit into memory
_CELLS = re.compile(r"([A-Z]{1,3})?([1-9]\d{0,4})?(?:(:)([A-Z]{1,3})?([1-9]\d{0,8})?)?")
_INPUT_OPTIONS = ("RAW", "USER_ENTERED")


class GoogleSheetsStandIn(StandIn):
    """Answers for sheets.googleapis.com."""

    hosts = ("sheets.googleapis.com",)

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[tuple[str, str], list[list[Any]]] = {}

    def _respond(self, request: ReceivedRequest) -> StandInAnswer:
        if request.token is None:
            return _refusal(
                401,
                "UNAUTHENTICATED",
                "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or "
                "other valid authentication credential.",
            )
        path, appends = request.path.removesuffix(":append"), request.path.endswith(":append")
        found = _VALUES.match(path)
        if found is None or (request.method, appends) not in (("GET", False), ("POST", True), ("PUT", False)):
            unknown = f"{request.method} {request.path} is not supported by the Google Sheets stand-in"
            return _refusal(404, "NOT_FOUND", "Requested entity was not found.", note=unknown)
        sheet, cells = _split(unquote(found["range"]))
        area = _area(cells)
        if area is None:
            return _refusal(400, "INVALID_ARGUMENT", f"Unable to parse range: {sheet}!{cells}")
        if request.method == "GET":
            read = {"range": f"{sheet}!{cells}", "majorDimension": "ROWS"}
            values = _read(self._rows.get((found["id"], sheet), []), area)
            return StandInAnswer(200, {**read, "values": values} if values else read)
        return self._write(request, found["id"], sheet, area, appends=appends)

    def _write(
        self, request: ReceivedRequest, spreadsheet: str, sheet: str, area: _Area, *, appends: bool
    ) -> StandInAnswer:
        option = parse_qs(request.query).get("valueInputOption", [""])[0]
        if option not in _INPUT_OPTIONS:
            return _refusal(400, "INVALID_ARGUMENT", "'valueInputOption' is required but not specified")
        body = parse_json_body(request)
        values = body.get("values") if isinstance(body, dict) else None
        if not isinstance(values, list) or not all(isinstance(row, list) for row in values) or not values:
            return _refusal(
                400, "INVALID_ARGUMENT", "Invalid values: a list of rows, each a list of cells, is expected."
            )
        rows = self._rows.setdefault((spreadsheet, sheet), [])
        left = area.left
        first = len(rows) + 1 if appends else area.top
        rows.extend([] for _ in range(first + len(values) - 1 - len(rows)))
        for row, cells in zip(rows[first - 1 :], values, strict=False):
            row.extend([""] * (left - 1 + len(cells) - len(row)))
            row[left - 1 : left - 1 + len(cells)] = cells
        columns = max(len(row) for row in values)
        last_column = _column(left + columns - 1)
        where = f"{sheet}!{_column(left)}{first}:{last_column}{first + len(values) - 1}"
        updates = {
            "spreadsheetId": spreadsheet,
            "updatedRange": where,
            "updatedRows": len(values),
            "updatedColumns": columns,
            "updatedCells": sum(len(row) for row in values),
        }
        note = f"Google Sheets row {first} of {sheet}: {shorten(', '.join(map(str, values[0])))}"
        if not appends:
            return StandInAnswer(200, updates, note=note)
        before = f"{sheet}!{_column(left)}1:{last_column}{first - 1}" if first > 1 else None
        table = {"tableRange": before} if before else {}
        return StandInAnswer(200, {"spreadsheetId": spreadsheet, **table, "updates": updates}, note=note)


def _split(text: str) -> tuple[str, str]:
    """Split `Sheet1!A1:C` into sheet and cells; a name alone is a whole sheet, cells alone are in the first sheet."""
    sheet, mark, cells = text.rpartition("!")
    if mark:
        return sheet.strip("'"), cells
    return ("Sheet1", text) if re.fullmatch(r"[A-Z]+\d*(:[A-Z]*\d*)?", text) else (text.strip("'"), "A1:Z1000")


@dataclass(frozen=True, slots=True)
class _Area:
    """The first and last row and column of a range, from 1; the last ones are None without an end."""

    left: int
    top: int
    right: int | None
    bottom: int | None


def _area(cells: str) -> _Area | None:
    """Return the area of `A2`, `A2:C10`, `A2:C`, `A:C` or `2:10`; None for another text. A single cell of an update is its upper left."""
    found = _CELLS.fullmatch(cells)
    if found is None or not cells:
        return None
    left, top, is_range, right, bottom = found.groups()
    first = _Area(_number(left) or 1, int(top or 1), None, None)
    if not is_range:
        return replace(first, right=_number(left), bottom=int(top) if top else None)
    return replace(first, right=_number(right), bottom=int(bottom) if bottom else None)


def _read(rows: list[list[Any]], area: _Area) -> list[list[Any]]:
    """Return the cells of *rows* in *area*, without empty cells at the ends of rows and empty rows at the end, as Google reads them."""
    found = [row[area.left - 1 : area.right] for row in rows[area.top - 1 : area.bottom]]
    for row in found:
        while row and row[-1] == "":
            row.pop()
    while found and not found[-1]:
        found.pop()
    return found


def _number(letters: str | None) -> int | None:
    """Return the number of a column: A is 1, AA is 27; None without letters."""
    number = 0
    for letter in letters or "":
        number = number * 26 + ord(letter) - ord("A") + 1
    return number or None


def _column(number: int) -> str:
    """Return the letters of a column: 1 is A, 27 is AA."""
    letters = ""
    while number:
        number, index = divmod(number - 1, 26)
        letters = chr(ord("A") + index) + letters
    return letters


def _refusal(status: int, code: str, message: str, *, note: str | None = None) -> StandInAnswer:
    return StandInAnswer(status, {"error": {"code": status, "message": message, "status": code}}, note=note)
