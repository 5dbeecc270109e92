"""
The files with the input and the results of a Bash or Go step.

`$PIPEDREAM_STEPS` and `$PIPEDREAM_EXPORTS` follow the platform; `$PIPEDREAM_RESPONSE` and `$PIPEDREAM_ACCOUNTS` are additions.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pdkernel.errors import ExportNotJSONError, StepError
from pdkernel.model import JSON
from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers.recorder import StepRecorder
from pdkernel.workers.replies import Response, describe_mismatch
from pdkernel.workers.step_errors import MAX_EXPORT_LINE_BYTES, build_payload_error

_MAX_FILE_BYTES = 64 << 20
"""The largest file that is read, in bytes."""


class SubprocessIO:
    """
    The files of one step, in a folder that only this user can read.

    Attributes:
        folder: The folder of the files; a step's code may be written there too.
        environment: The environment variables with the paths of the files.
    """

    def __init__(self, parent: Path, steps: bytes, account_fields: Mapping[str, Mapping[str, str]]) -> None:
        """
        Write the input of the step.

        Args:
            parent: The folder of the run's files, in which `folder` is created.
            steps: The JSON text of `steps`.
            account_fields: App prop to the fields of its account.
        """
        self.folder = parent / f"step-{secrets.token_hex(4)}"
        self.folder.mkdir(mode=0o700)
        self._exports = self.folder / "exports"
        self._response = self.folder / "response"
        # parity[response-file]: on the platform Bash and Go steps cannot respond; in pdkernel they may write to this file
        self.environment = {
            "PIPEDREAM_STEPS": self._put("steps.json", steps),
            "PIPEDREAM_EXPORTS": self._put("exports"),
            "PIPEDREAM_RESPONSE": self._put("response"),
        }
        if account_fields:
            # parity[accounts-file]: on the platform Bash and Go steps have no accounts; in pdkernel `--app` creates this file
            text = json.dumps({prop: dict(fields) for prop, fields in account_fields.items()})
            self.environment["PIPEDREAM_ACCOUNTS"] = self._put("accounts.json", text.encode())

    def collect(self, recorder: StepRecorder) -> StepError | None:
        """Pass the exports and the response to *recorder*; return an error if a file is invalid, else None."""
        return self._collect_exports(recorder) or self._collect_response(recorder)

    def remove(self) -> None:
        """Remove the files."""
        remove_tree(self.folder)

    def _put(self, name: str, data: bytes = b"") -> str:
        path = self.folder / name
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(data)
        return str(path)

    def _collect_exports(self, recorder: StepRecorder) -> StepError | None:
        failed = None
        try:
            text = _text(self._exports, "$PIPEDREAM_EXPORTS")
        except StepError as error:
            return error
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                failed = _export(number, line.removesuffix("\r"), recorder) or failed
        return failed

    def _collect_response(self, recorder: StepRecorder) -> StepError | None:
        try:
            text = _text(self._response, "$PIPEDREAM_RESPONSE")
            while text := text.lstrip():
                response, end = _DECODER.raw_decode(text)
                text = text[end:]
                recorder.respond(_check_response(response))
        except StepError as error:
            return error
        except (ValueError, RecursionError) as wrong:
            return _bad_response(f"is not JSON ({_reason(wrong)})")
        return None


def _export(number: int, line: str, recorder: StepRecorder) -> StepError | None:
    name, equals, value = line.partition("=")
    if not equals or not name:
        recorder.warn(f"Line {number} of $PIPEDREAM_EXPORTS is not NAME=VALUE and was ignored.")
        return None
    if not name.endswith(":json"):
        recorder.export(name, value)
        return None
    name = name.removesuffix(":json")
    if len(value) > MAX_EXPORT_LINE_BYTES:
        return build_payload_error(f"the export {name} has {len(value) / (1 << 20):.1f} MB")
    try:
        parsed = _DECODER.decode(value)
        json.dumps(parsed, allow_nan=False)  # a number beyond the range of a double is parsed as Infinity
    except (ValueError, RecursionError) as wrong:
        reason = f" ({_reason(wrong)})" if isinstance(wrong, json.JSONDecodeError) else ""
        return ExportNotJSONError(
            f"{name} is not JSON{reason}: line {number} of $PIPEDREAM_EXPORTS.",
            name="ExportNotJSONError",
            fix=f"Write {name}=TEXT for plain text, or make the JSON with jq: "
            f'echo "{name}:json=$(jq -c . file)" >> $PIPEDREAM_EXPORTS',
        )
    recorder.export(name, parsed)
    return None


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


def _text(path: Path, name: str) -> str:
    if not path.is_file():  # the step has removed it
        return ""
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise build_payload_error(f"{name} has {path.stat().st_size / (1 << 20):.1f} MB")
    # not `read_text`, which also ends a line at a lone carriage return
    return path.read_bytes().decode("utf-8", "replace")


def _reason(wrong: Exception) -> str:
    return f"{wrong.msg} at column {wrong.colno}" if isinstance(wrong, json.JSONDecodeError) else str(wrong)


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _integer(text: str) -> int | float:
    return -0.0 if text == "-0" else int(text)  # Python's integer zero has no sign


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_integer)
