"""
Stand-in for Google Sheets' API v4: `values.get`, `values.append` and `values.update`, as in Google's documentation.

It stores appended rows, so that a workflow can read the rows that it wrote.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any
from urllib.parse import parse_qs, unquote

from pdkernel.egress.stand_ins.base import ReceivedRequest, StandInAnswer, new_request_log, parse_json_body, shorten

HOSTS = ("sheets.googleapis.com",)
_VALUES = re.compile(r"/v4/spreadsheets/(?P<id>[\w-]+)/values/(?P<range>[^/]+)\Z")
_INPUT_OPTIONS = ("RAW", "USER_ENTERED")


class GoogleSheetsStandIn:
    """
    Answers for sheets.googleapis.com.

    Attributes:
        received: The latest requests, oldest first.
    """

    hosts = HOSTS

    def __init__(self) -> None:
        self.received: deque[ReceivedRequest] = new_request_log()
        self._rows: dict[tuple[str, str], list[list[Any]]] = {}

    def answer(self, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* like Google Sheets, and store it."""
        self.received.append(request)
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
        if request.method == "GET":
            rows = self._rows.get((found["id"], sheet), [])
            return StandInAnswer(200, {"range": f"{sheet}!{cells}", "majorDimension": "ROWS", "values": rows})
        return self._write(request, found["id"], sheet, appends=appends)

    def _write(self, request: ReceivedRequest, spreadsheet: str, sheet: str, *, appends: bool) -> StandInAnswer:
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
        first = len(rows) + 1 if appends else 1
        if appends:
            rows.extend(values)
        else:
            rows[: len(values)] = values
        columns = max(len(row) for row in values)
        where = f"{sheet}!A{first}:{_column(columns)}{first + len(values) - 1}"
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
        before = f"{sheet}!A1:{_column(columns)}{first - 1}" if first > 1 else None
        table = {"tableRange": before} if before else {}
        return StandInAnswer(200, {"spreadsheetId": spreadsheet, **table, "updates": updates}, note=note)


def _split(text: str) -> tuple[str, str]:
    """Split `Sheet1!A1:C` into sheet and cells; a name alone is a whole sheet, cells alone are in the first sheet."""
    sheet, mark, cells = text.rpartition("!")
    if mark:
        return sheet.strip("'"), cells
    return ("Sheet1", text) if re.fullmatch(r"[A-Z]+\d*(:[A-Z]*\d*)?", text) else (text.strip("'"), "A1:Z1000")


def _column(number: int) -> str:
    """The letters of a column: 1 is A, 27 is AA."""
    letters = ""
    while number:
        number, index = divmod(number - 1, 26)
        letters = chr(ord("A") + index) + letters
    return letters


def _refusal(status: int, code: str, message: str, *, note: str | None = None) -> StandInAnswer:
    return StandInAnswer(status, {"error": {"code": status, "message": message, "status": code}}, note=note)
