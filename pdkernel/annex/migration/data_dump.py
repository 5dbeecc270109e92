"""
Rescues data stores, files and events. A step hands out stores and files at Pipedream, and its pages are downloaded.

A download goes on where it stopped. A file of the result exists only if it is complete; before, its name ends with
`.pdkernel-part`, which no file of a file store has.
A downloaded store ends with the line `{"total": N}`: the number of records that Pipedream counted.

The platform's REST API has three lists of events: those of a workflow's sources, of runs that failed, and those that a workflow emitted.
It has no list of the requests that started a workflow without an error.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from pdkernel.accounts.sdk import EventListKind, WorkflowApi
from pdkernel.common.encode import JsonStruct, decode_json, encode_json
from pdkernel.errors import ProjectError, RequestError, describe_fault, format_count
from pdkernel.event import Event
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary
from pdkernel.operations.stores import TOTAL_KEY

PLAN_FILE = "plan.json"
STEP_FILE = "step.mjs"
STORES_FOLDER = "stores"
FILES_FOLDER = "files"
PART_SUFFIX = ".pdkernel-part"
_TOTAL_LINE = f'{{"{TOTAL_KEY}"'.encode()
TIMEOUT_S = 120.0
_TRIES = 3
RETRY_S = 2.0
_WRONG_PAGE_FIX = "Paste the step again, deploy the workflow, and repeat the command."


class DumpPlan(JsonStruct, frozen=True):
    """
    What a step hands out.

    Attributes:
        token: The token that the step expects.
        stores: The names of the data stores.
        files: Whether the file store is included.
    """

    token: str
    stores: tuple[str, ...] = ()
    files: bool = False

    def props(self) -> dict[str, str]:
        """Return the step's prop for each store."""
        found: dict[str, str] = {}
        for name in self.stores:
            prop = f"store_{re.sub('[^A-Za-z0-9]+', '_', name).strip('_') or 'unnamed'}"
            while prop in found.values():
                prop += "_"
            found[name] = prop
        return found


@dataclass(frozen=True, slots=True)
class DumpResult:
    """
    A store, or the file store, that was downloaded.

    Attributes:
        name: The store's name, or None for the file store.
        path: The file of the records, or the folder of the files.
        count: The number of records or files here.
        total: The number that Pipedream counted at the end of the download.
        was_complete: Whether an earlier call had downloaded everything, so that nothing was requested.
    """

    name: str | None
    path: Path
    count: int
    total: int
    was_complete: bool = False


def write_plan(folder: Path, stores: Sequence[str], *, files: bool) -> DumpPlan:
    """
    Write the step and its plan to *folder*. A plan that exists there keeps its token.

    Raises:
        RequestError: The folder cannot be written.
    """
    plan = DumpPlan(_read_token(folder) or secrets.token_urlsafe(24), tuple(dict.fromkeys(stores)), files)
    props = plan.props()
    replacements = {
        "token": plan.token,
        "stores": json.dumps(props),
        "props": "\n".join(
            f"    {prop}: {{ type: 'data_store', label: {json.dumps(name)} }}," for name, prop in props.items()
        ),
    }
    template = (
        resources.files("pdkernel.annex.migration").joinpath("templates", "dump_step.mjs").read_text(encoding="utf-8")
    )
    step = re.sub(r"\{\{(\w+)\}\}", lambda found: replacements[found[1]], template)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((STEP_FILE, step.encode()), (PLAN_FILE, encode_json(plan) + b"\n")):
            _write_private(folder / name, content)
    except OSError as fault:
        raise RequestError(
            f"Cannot write to {folder}: {fault.strerror}.", fix="Name a writable folder: --to FOLDER"
        ) from None
    return plan


def read_plan(folder: Path) -> DumpPlan:
    """
    Return the plan in *folder*.

    Raises:
        RequestError: There is no plan.
    """
    try:
        return decode_json((folder / PLAN_FILE).read_bytes(), DumpPlan)
    except (OSError, ValueError, msgspec.ValidationError):
        raise RequestError(
            f"{folder} has no {PLAN_FILE} of an earlier `pdkernel migrate data`.",
            fix=f"Write the step first: pdkernel migrate data NAME... --to {folder}",
        ) from None


def _read_token(folder: Path) -> str | None:
    try:
        return read_plan(folder).token
    except RequestError:
        return None


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)


class DumpDownload:
    """
    Downloads what the step at *url* hands out.

    Every method raises `RequestError` if the endpoint's response is not a page of the step, and `ProjectError` if it does
    not respond.

    Args:
        url: The URL of the workflow's endpoint.
        plan: The plan of the step.
        folder: The folder of the result.
        report: Called with a line of progress after each page.
        retry_s: Seconds before the second try of a request; twice as many before the third.
    """

    def __init__(
        self, url: str, plan: DumpPlan, folder: Path, report: Callable[[str], None], *, retry_s: float = RETRY_S
    ) -> None:
        import httpx

        self._url = url
        self._plan = plan
        self._folder = folder
        self._report = report
        self._retry_s = retry_s
        self._http = httpx.Client(timeout=TIMEOUT_S, follow_redirects=True)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def download_store(self, name: str) -> DumpResult:
        """Download the records of the store *name*, after those that an earlier call has downloaded."""
        path = self._folder / STORES_FOLDER / f"{quote(name, safe=' ')}.jsonl"
        if path.is_file():
            count, total = read_totals(path)
            return DumpResult(name, path, count, count if total is None else total, was_complete=True)
        part = path.with_name(path.name + PART_SUFFIX)
        part.parent.mkdir(parents=True, exist_ok=True)
        count, after = _resume(part)
        with part.open("ab") as stream:
            while True:
                page = self._request({"store": name, "after": after}, "records")
                records = [_encode_record(record) for record in page["records"]]
                stream.writelines(records)
                stream.flush()
                count += len(records)
                self._report(f"{name}: {count:,} of {format_count(page['total'], 'record')}")
                previous, after = after, page.get("next")
                if after is None:
                    break
                if not isinstance(after, str) or after == previous:
                    raise _wrong_page(self._url, "its page has no next key")
            stream.write(json.dumps({TOTAL_KEY: page["total"]}).encode() + b"\n")
        part.rename(path)
        return DumpResult(name, path, count, page["total"])

    def download_files(self) -> DumpResult:
        """Download the files of the project's file store that are not here yet."""
        root = self._folder / FILES_FOLDER
        count = downloaded = 0
        total = 0
        for page in self._iter_file_pages():
            total = page["total"]
            for entry in page["files"]:
                downloaded += self._download_file(root, entry)
                count += 1
                self._report(f"files: {count:,} of {total:,}")
        return DumpResult(None, root, count, total, was_complete=count > 0 and not downloaded)

    def _iter_file_pages(self) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while True:
            page = self._request({"after": after}, "files")
            yield page
            previous, after = after, page.get("next")
            if after is None:
                return
            if not isinstance(after, str) or after == previous:
                raise _wrong_page(self._url, "its page has no next file")

    def _download_file(self, root: Path, entry: Mapping[str, Any]) -> bool:
        """Download one file; False if a file of that size is here."""
        name, size = entry.get("path"), entry.get("size")
        inside = PurePosixPath(str(name))
        if not isinstance(name, str) or inside.is_absolute() or ".." in inside.parts or not inside.parts:
            raise _wrong_page(self._url, f"the file {name!r:.60} is outside of the file store")
        path = root.joinpath(*inside.parts)
        if path.is_file() and path.stat().st_size == size:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART_SUFFIX)
        with part.open("ab") as stream:
            while True:
                page = self._request({"file": name, "offset": stream.tell(), "size": size}, None)
                if isinstance(page.get("url"), str):
                    stream.truncate(0)
                    self._copy(page["url"], stream.write)
                    break
                try:
                    content = base64.b64decode(str(page.get("content")), validate=True)
                except binascii.Error:
                    raise _wrong_page(self._url, f"the content of {name} is not base64") from None
                stream.write(content)
                if stream.tell() >= int(page.get("size") or 0) or not content:
                    break
        part.rename(path)
        return True

    def _copy(self, url: str, write: Callable[[bytes], object]) -> None:
        import httpx

        try:
            with self._http.stream("GET", url) as response:
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    write(chunk)
        except httpx.HTTPError as fault:
            raise ProjectError(
                f"A file's link could not be downloaded: {describe_fault(fault)}",
                fix="Repeat the command: it continues with this file.",
            ) from None

    def _request(self, body: Mapping[str, object], required: str | None) -> dict[str, Any]:
        """Return a page of the step; it has the list *required*, and a total."""
        import httpx

        for number in range(1, _TRIES + 1):
            try:
                response = self._http.post(self._url, json=dict(body), headers={"x-pdkernel-token": self._plan.token})
            except httpx.InvalidURL as fault:
                raise RequestError(f"{self._url!r} is not the URL of an endpoint: {fault}.") from None
            except httpx.HTTPError as fault:
                if number == _TRIES:
                    raise ProjectError(
                        f"The endpoint {self._url} does not respond: {describe_fault(fault)}",
                        fix="Repeat the command: the download goes on where it stopped.",
                    ) from None
            else:
                if response.status_code not in (429, 500, 502, 503, 504) or number == _TRIES:
                    return _check_page(response.status_code, response.content, self._url, required)
            time.sleep(self._retry_s * number)
        raise AssertionError("the last try returns or raises")


def _check_page(status: int, content: bytes, url: str, required: str | None) -> dict[str, Any]:
    try:
        page = json.loads(content)
    except (ValueError, RecursionError):
        page = None
    if status == 403:
        raise _wrong_page(url, "the step there has another token (403)")
    if status != 200 or not isinstance(page, dict):
        found = f"status {status}" if status != 200 else "a text that is not JSON"
        raise RequestError(
            f"The endpoint {url} does not hand out data: it responds with {found}.",
            fix='Deploy the workflow, turn it on, and choose the response "Return a custom response from your workflow" in its trigger.',
        )
    is_whole = required is None or (isinstance(page.get(required), list) and isinstance(page.get("total"), int))
    if not is_whole:
        raise _wrong_page(url, "its response is not a page of the step")
    return page


def _wrong_page(url: str, what: str) -> RequestError:
    return RequestError(f"The endpoint {url} does not run the step of this folder: {what}.", fix=_WRONG_PAGE_FIX)


def _encode_record(record: object) -> bytes:
    if not isinstance(record, list) or len(record) != 2 or not isinstance(record[0], str):
        raise RequestError("A page of the step has a record without a key.", fix=_WRONG_PAGE_FIX)
    return json.dumps({"key": record[0], "value": record[1]}, separators=(",", ":")).encode() + b"\n"


def _resume(part: Path) -> tuple[int, str | None]:
    """Return the number of records in *part* and its last key; a last line that is not whole is removed."""
    count, whole, last = 0, 0, b""
    if part.is_file():
        with part.open("r+b") as stream:
            for line in stream:
                if line.endswith(b"\n") and not line.startswith(_TOTAL_LINE):
                    count, whole, last = count + 1, whole + len(line), line
            stream.truncate(whole)
    return count, json.loads(last)["key"] if last else None


def read_totals(path: Path) -> tuple[int, int | None]:
    """Return the number of records in the file of a store, and the number that Pipedream counted, or None without that line."""
    count, total = 0, None
    with path.open("rb") as stream:
        for line in stream:
            if not line.strip():
                continue
            value = json.loads(line)
            if isinstance(value, dict) and value.keys() == {TOTAL_KEY}:
                total = int(value[TOTAL_KEY])
            else:
                count += 1
    return count, total


EventOrigin = Literal["failed", "source", "emitted"]
_ORIGINS: Mapping[EventListKind, EventOrigin] = {"errors": "failed", "source": "source", "emits": "emitted"}
_HTTP_KEYS = frozenset({"method", "path", "headers"})
"""Keys that the event of an HTTP request has."""


@dataclass(frozen=True, slots=True)
class RescuedEvent:
    """
    An event of the API.

    Attributes:
        name: The name of the saved event, made of its origin and its id at Pipedream.
        origin: Whether its run failed, a source emitted the event, or the workflow did.
        event: The event, or None if it is not an object.
        error: The message of the failed run's error, or the empty string.
    """

    name: str
    origin: EventOrigin
    event: Event | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class SavedEvents:
    """
    The result for a workflow.

    Attributes:
        added: Events that were saved by this call.
        known: Events that an earlier call had saved.
        skipped: Events that are not objects, which an event file must be.
    """

    added: tuple[RescuedEvent, ...]
    known: tuple[RescuedEvent, ...]
    skipped: tuple[RescuedEvent, ...]


def find_source_ids(workflow: Workflow | None) -> tuple[str, ...]:
    """Return the ids of the triggers of *workflow* that are sources (`dc_...`), whose events the API keeps."""
    ids = [str(trigger.config.get("id") or "") for trigger in workflow.triggers] if workflow else []
    return tuple(trigger_id for trigger_id in ids if trigger_id.startswith("dc_"))


def fetch_events(api: WorkflowApi, workflow_id: str, source_ids: Sequence[str]) -> Iterator[RescuedEvent]:
    """
    Yield the events of a workflow, the newest of each list first.

    Args:
        api: Sends the requests.
        workflow_id: Pipedream's id of the workflow.
        source_ids: Its sources.
    """
    lists: list[tuple[EventListKind, str]] = [("errors", workflow_id), *(("source", each) for each in source_ids)]
    for kind, owner_id in [*lists, ("emits", workflow_id)]:
        for item in api.iter_events(kind, owner_id):
            yield _read_event(item, kind)


def save_events(events: Sequence[RescuedEvent], library: EventLibrary) -> SavedEvents:
    """
    Save *events* with masked headers; an event whose name is saved is left as it is.

    Raises:
        EventError: A file cannot be written.
    """
    names = set(library.names())
    added, known, skipped = [], [], []
    for each in events:
        if each.event is None:
            skipped.append(each)
        elif each.name in names:
            known.append(each)
        else:
            library.save(each.name, each.event)
            names.add(each.name)
            added.append(each)
    return SavedEvents(tuple(added), tuple(known), tuple(skipped))


def _read_event(item: Mapping[str, Any], kind: EventListKind) -> RescuedEvent:
    origin = _ORIGINS[kind]
    content = item.get("event")
    error = ""
    if kind == "errors" and isinstance(content, dict):
        error = _read_error(content.get("error"))
        content = content.get("original_event")
    elif kind == "emits" and isinstance(content, dict) and content.keys() == {"raw_event"}:
        content = content["raw_event"]
    name = f"{origin}-{re.sub('[^A-Za-z0-9_-]+', '_', str(item.get('id') or 'unknown'))}"
    return RescuedEvent(name, origin, _to_event(content), error)


def _to_event(content: JSON) -> Event | None:
    if not isinstance(content, dict):
        return None
    masked = {key: _mask_nested(value) for key, value in content.items()}
    is_http = masked.keys() >= _HTTP_KEYS and isinstance(masked["headers"], dict)
    return Event(masked, is_http=is_http)


def _mask_nested(value: JSON) -> JSON:
    """Return *value* with masked headers of requests inside: the event of an error contains the event of the failed run."""
    match value:
        case dict():
            inner = {key: _mask_nested(item) for key, item in value.items()}
            return dict(Event(inner).with_masked_headers().data)
        case list():
            return [_mask_nested(item) for item in value]
    return value


def _read_error(error: object) -> str:
    if not isinstance(error, dict):
        return ""
    words = [str(error[key]) for key in ("name", "code", "message") if error.get(key)]
    return ": ".join(dict.fromkeys(words))
