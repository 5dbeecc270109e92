"""
Brings records home: entries of the receiver or of a data store become recorded runs, an event and an expected result each.

A start without an end is a run that did not reach its last step: a step ended it (`$.flow.exit`, a filter), or an error did.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdkernel.annex.migration.receiver import TOKEN_HEADER, is_entry
from pdkernel.annex.proof.recorded_runs import RecordArchive, RecordedRun
from pdkernel.errors import ProjectError, RequestError, describe_fault
from pdkernel.operations.stores import TOTAL_KEY

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Collection:
    """
    The result of a collection.

    Attributes:
        runs: The recorded runs by the id of their workflow, the oldest first.
        orphans: The number of ends without a start.
        lost: The number of entries that recording steps could not store, as far as later ones report it.
        skipped: The number of entries that are not those of a recording step.
    """

    runs: Mapping[str, tuple[RecordedRun, ...]]
    orphans: int
    lost: int
    skipped: int


def collect(entries: Iterable[object], archive: RecordArchive) -> Collection:
    """Pair *entries* and write the runs to *archive*; runs that are there are written again."""
    starts: dict[tuple[str, str], dict[str, Any]] = {}
    ends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lost = skipped = 0
    for entry in entries:
        if not isinstance(entry, dict) or not is_entry(entry):
            skipped += 1
            continue
        key = (entry["workflow"], entry["run"])
        lost += int(entry.get("lost") or 0)
        if entry["part"] == "start":
            starts[key] = entry
        else:
            ends.setdefault(key, []).append(entry)
    runs: dict[str, list[RecordedRun]] = {}
    for key, start in sorted(starts.items(), key=lambda item: (item[1]["at"], item[0])):
        run = _pair(start, ends.get(key, []))
        archive.save(run)
        runs.setdefault(run.workflow, []).append(run)
    orphans = len(ends.keys() - starts.keys())
    return Collection({name: tuple(found) for name, found in runs.items()}, orphans, lost, skipped)


def _pair(start: dict[str, Any], ends: list[dict[str, Any]]) -> RecordedRun:
    steps: dict[str, dict[str, Any]] = {}
    for end in sorted(
        ends, key=lambda each: (each["part"] == "end", each["at"])
    ):  # the end last: it has the blocks' exports
        steps.update(end["steps"])
    digest = hashlib.sha256(f"{start['workflow']}/{start['run']}".encode()).hexdigest()[:8]
    moment = re.sub(r"[^0-9]", "", start["at"])[:14]
    version = start.get("version")
    return RecordedRun(
        name=f"{moment}-{digest}",
        run=start["run"],
        workflow=start["workflow"],
        version=version if isinstance(version, str) else None,
        at=start["at"],
        status="recorded" if any(end["part"] == "end" for end in ends) else "not recorded to the end",
        event=start["event"],
        context=start["context"],
        steps=steps,
        branches=tuple(sorted(end["part"].removeprefix("branch/") for end in ends if end["part"] != "end")),
        known_branches=tuple(sorted({each for each in start.get("branches") or () if isinstance(each, str)})),
        lost=int(start.get("lost") or 0),
    )


def read_dump(path: Path) -> Iterator[object]:
    """
    The entries in a data store that `migrate data` downloaded (`stores/NAME.jsonl`).

    Raises:
        RequestError: The file cannot be read, or is not that of a data store.
    """
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict) or not (record.keys() == {TOTAL_KEY} or "key" in record):
                    raise RequestError(f"{path} is not the file of a data store (line {number}).")
                if str(record.get("key", "")).startswith("record/"):
                    value = record.get("value")
                    yield json.loads(value) if isinstance(value, str) else value
    except OSError as fault:
        raise RequestError(
            f"{path} cannot be read: {fault.strerror}.",
            fix="Download the store first: pdkernel migrate data ds_... --to FOLDER",
        ) from None
    except ValueError:
        raise RequestError(f"{path} is not the file of a data store.") from None


def fetch_entries(url: str, token: str) -> Iterator[object]:
    """
    The entries of the receiver at *url*.

    Raises:
        RequestError: The address is not that of a receiver of this project.
        ProjectError: It does not respond.
    """
    import httpx

    after: int | None = 0
    with httpx.Client(timeout=_TIMEOUT_S) as http:
        while after is not None:
            try:
                response = http.get(url, params={"after": after}, headers={TOKEN_HEADER: token})
                page = response.json() if response.status_code == 200 else {}
            except httpx.InvalidURL as fault:
                raise RequestError(f"{url!r} is not a URL: {fault}.") from None
            except httpx.HTTPError as fault:
                raise ProjectError(
                    f"{url} does not respond: {describe_fault(fault)}", fix="Start it: pdkernel migrate receive"
                ) from None
            except ValueError:
                page = {}
            if not isinstance(page, dict) or not isinstance(page.get("entries"), list):
                raise RequestError(
                    f"{url} is not the receiver of this project: it responds with status {response.status_code}.",
                    fix="Run the receiver and this command in the same project, and pass the URL of its records.",
                )
            yield from page["entries"]
            following = page.get("next")
            if following is not None and (not isinstance(following, int) or following <= after):
                raise RequestError(f"{url} is not the receiver of this project: its page has no next entry.")
            after = following
