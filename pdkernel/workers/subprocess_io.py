"""
The files with the input and the results of a Bash or Go step.

`$PIPEDREAM_STEPS` and `$PIPEDREAM_EXPORTS` follow the platform; `$PIPEDREAM_RESPONSE` and `$PIPEDREAM_ACCOUNTS` are additions.
A step may write anything into the files of its results: they are read up to a limit, in a time that grows as their size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import cast

import msgspec

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.model import JSON
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Response, check_containers, describe_mismatch
from pdkernel.workers.slot_folder import StepFileError, StepFiles
from pdkernel.workers.step_errors import MAX_EXPORT_LINE_BYTES, build_payload_error

MAX_EXPORT_LINES = 20_000
"""The most lines of a file of exports."""

_MAX_FILE_BYTES = MAX_EXPORT_LINE_BYTES + (1 << 20)
"""The largest file that is read, in bytes: the longest line, and room for others."""
_MAX_LISTED_LINES = 3
_EXPORTS, _RESPONSE = "exports", "response"
_VARIABLES = {_EXPORTS: "$PIPEDREAM_EXPORTS", _RESPONSE: "$PIPEDREAM_RESPONSE"}


class SubprocessIO:
    """
    The results of one step in its files.

    Attributes:
        environment: The environment variables with the paths of the files.
    """

    def __init__(self, files: StepFiles, steps: bytes, account_fields: Mapping[str, Mapping[str, str]]) -> None:
        """
        Write the input of the step.

        Args:
            files: The files of the step.
            steps: The JSON text of `steps`.
            account_fields: App prop to the fields of its account.
        """
        self._files = files
        # parity[response-file]: on the platform Bash and Go steps cannot respond; in pdkernel they may write to this file
        self.environment = {
            "PIPEDREAM_STEPS": files.write("steps.json", steps),
            "PIPEDREAM_EXPORTS": files.write(_EXPORTS),
            "PIPEDREAM_RESPONSE": files.write(_RESPONSE),
        }
        if account_fields:
            # parity[accounts-file]: on the platform Bash and Go steps have no accounts; in pdkernel `--app` creates this file
            text = json.dumps({prop: dict(fields) for prop, fields in account_fields.items()})
            self.environment["PIPEDREAM_ACCOUNTS"] = files.write("accounts.json", text.encode())

    def collect(self, recorder: StepRecorder) -> StepError | None:
        """
        Pass the exports and the response to *recorder*; return an error if a file is invalid, else None.

        Call it when no process of the step is left.
        """
        return self._collect_exports(recorder) or self._collect_response(recorder)

    def _collect_exports(self, recorder: StepRecorder) -> StepError | None:
        try:
            text, failed = self._read(_EXPORTS)
            lines = text.split("\n", MAX_EXPORT_LINES + 1)
            check_containers("\n".join(line for line in lines if ":json=" in line).encode())
        except StepError as error:
            return error
        if len(lines) > MAX_EXPORT_LINES + 1:
            return StepError(
                f"$PIPEDREAM_EXPORTS has more than {MAX_EXPORT_LINES:,} lines, so none of them was exported.",
                name="TooManyExports",
                fix='Export a list as one line: echo "NAME:json=$(jq -cs . file)" >> $PIPEDREAM_EXPORTS',
            )
        if failed is not None:
            lines.pop()  # it is cut off
        exports: dict[str, JSON] = {}
        ignored = []
        for number, line in enumerate(lines, 1):
            if not line or line.isspace():
                continue
            name, equals, value = line.removesuffix("\r").partition("=")
            if not equals or not name:
                ignored.append(number)
            elif not name.endswith(":json"):
                exports[name] = value
            else:
                name = name.removesuffix(":json")
                try:
                    exports[name] = _parse_export(name, value, number)
                except StepError as error:
                    failed = failed or error
        if exports:
            recorder.export(exports)
        for number in ignored[:_MAX_LISTED_LINES]:
            recorder.warn(f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored.")
        if (more := len(ignored) - _MAX_LISTED_LINES) > 0:
            recorder.warn(f"{more:,} more lines of $PIPEDREAM_EXPORTS are not NAME=VALUE and were ignored.")
        return failed

    def _collect_response(self, recorder: StepRecorder) -> StepError | None:
        try:
            text, failed = self._read(_RESPONSE)
            if failed is not None:
                return failed
            check_containers(text.encode())
            end = 0
            for _ in range(2):  # the first response is sent; of the others, the second is checked
                blanks = _BLANKS.match(text, end)
                start = blanks.end() if blanks else end
                if start == len(text):
                    break
                response, end = _choose_decoder(text).raw_decode(text, start)
                recorder.respond(_check_response(response))
        except StepError as error:
            return error
        except (ValueError, RecursionError) as wrong:
            return _bad_response(f"is not JSON ({_reason(wrong)})")
        return None

    def _read(self, name: str) -> tuple[str, StepError | None]:
        """
        Return the text of a file of results, empty if the step has removed it, and the error if the text is cut off.

        Raises:
            StepError: The file is not the step's own.
        """
        variable = _VARIABLES[name]
        try:
            file = self._files.read(name, _MAX_FILE_BYTES)
        except StepFileError as wrong:
            raise StepError(
                f"The file {variable} {wrong}, so it was not read.",
                name="StepFileError",
                fix=f"Append to the file, or replace it by a file of your own: mv FILE {variable}",
            ) from None
        if file is None:
            return "", None
        is_cut = file.size > _MAX_FILE_BYTES
        failed = build_payload_error(f"{variable} has {file.size / (1 << 20):.1f} MB") if is_cut else None
        return file.data.decode("utf-8", "replace"), failed


def _parse_export(name: str, value: str, number: int) -> JSON:
    """Return the value of an export in line *number*. Raises `StepError`."""
    if len(value) > MAX_EXPORT_LINE_BYTES:
        raise build_payload_error(f"the export {name} has {len(value) / (1 << 20):.1f} MB")
    try:
        return cast("JSON", _choose_decoder(value).decode(value))
    except (ValueError, RecursionError) as wrong:
        reason = f" ({_reason(wrong)})" if isinstance(wrong, json.JSONDecodeError) else ""
        raise ExportNotJSONError(
            f"{name} is not JSON{reason}: line {number} of $PIPEDREAM_EXPORTS.",
            name="ExportNotJSONError",
            fix=f"Write {name}=TEXT for plain text, or make the JSON with jq: "
            f'echo "{name}:json=$(jq -c . file)" >> $PIPEDREAM_EXPORTS',
        ) from None


def _check_response(response: JSON) -> Response:
    """Validate *response*: `{"status": NUMBER, "headers": OBJECT, "body": ANYTHING}`, each part optional."""
    if not isinstance(response, dict):
        raise _bad_response("is not a JSON object")
    headers = response.get("headers") or {}
    if isinstance(headers, dict):
        headers = {name: _header(value) for name, value in headers.items()}
    parts = {"status": response.get("status", 200), "headers": headers, "body": response.get("body")}
    try:
        return msgspec.convert(parts, Response)
    except msgspec.ValidationError as wrong:
        raise _bad_response(f"is wrong: {describe_mismatch(wrong)}") from None


def _header(value: JSON) -> JSON:
    if isinstance(value, list):
        return [_header(each) for each in value]
    return json.dumps(value) if isinstance(value, bool | int | float) else value


def _bad_response(what: str) -> StepError:
    return StepError(
        f"The response in $PIPEDREAM_RESPONSE {what}.",
        name="ResponseError",
        fix='Write one JSON object: {"status": 200, "headers": {}, "body": ...}',
    )


def _reason(wrong: Exception) -> str:
    return f"{wrong.msg} at column {wrong.colno}" if isinstance(wrong, json.JSONDecodeError) else str(wrong)


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _parse_integer(text: str) -> int | float:
    # no double is as large, and the time of a conversion grows as the square
    if len(text) > _MAX_DIGITS or math.isinf(float(text)):
        raise ValueError(f"a number of {len(text):,} digits")
    return -0.0 if text == "-0" else int(text)  # Python's integer zero has no sign


def _parse_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(text[:100])
    return number


def _choose_decoder(text: str) -> json.JSONDecoder:
    """Return the decoder for *text*: the one that calls a function for each number only if a number is special."""
    return _CAREFUL_DECODER if _SPECIAL_NUMBER.search(text) else _FAST_DECODER


_MAX_DIGITS = 310  # with a sign; the largest double has 309
_SPECIAL_NUMBER = re.compile(r"-0(?![.\d])|\d[eE]\+?\d|(?<!\d)\d{300}")
_BLANKS = re.compile(r"\s*")
_CAREFUL_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_parse_integer, parse_float=_parse_float)
_FAST_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
