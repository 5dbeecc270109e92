"""
Shape and schema of an event of ten megabytes, compared with genson alone.

    python tests/benchmarks/bench_shape.py
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genson import SchemaBuilder

sys.path.insert(0, str(Path(__file__).parents[2]))

from pdkernel.language.shape import build_data_frame, build_schema, infer_shape

SIZE_MB = 10
ROUNDS = 3


def a_record(number: int, chance: random.Random) -> dict[str, Any]:
    """A delivery as in the history of a webhook: nested, with optional keys and keys of two types."""
    user = {"login": f"user{number % 97}", "id": 1000 + number % 97, "site_admin": False, "type": "User"}
    record: dict[str, Any] = {
        "id": number,
        "action": chance.choice(["opened", "edited", "closed"]),
        "issue": {
            "url": f"https://api.example.com/repos/ada/engine/issues/{number}",
            "number": number,
            "title": f"Issue {number}",
            "user": user,
            "labels": [
                {"id": number * 10 + index, "name": f"label{index}", "default": index == 0, "color": "d73a4a"}
                for index in range(chance.randrange(4))
            ],
            "assignee": user if number % 3 else None,
            "milestone": None,
            "comments": chance.randrange(20),
            "score": chance.choice([1, 0.5]),
            "created_at": "2026-11-24T10:00:00Z",
            "body": "It would be good to have a shape. " * chance.randrange(1, 8),
        },
        "sender": user,
    }
    if number % 5 == 0:
        record["changes"] = {"title": {"from": "An older title"}}
    return record


def an_event(megabytes: float) -> dict[str, Any]:
    """An event of that size; its body is a list of records."""
    chance = random.Random(4815162342)
    records: list[dict[str, Any]] = []
    size = 0
    while size < megabytes * 1e6:
        records.append(a_record(len(records), chance))
        size += len(json.dumps(records[-1]))
    return {"method": "POST", "path": "/", "headers": {"content-type": "application/json"}, "body": {"items": records}}


def best_of(act: Callable[[], Any]) -> float:
    """The shortest duration of *act* in a few rounds, in seconds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return min(times)


def genson_alone(event: dict[str, Any]) -> dict[str, Any]:
    """The schema that genson infers for the whole event."""
    builder = SchemaBuilder()
    builder.add_object(event)
    made: dict[str, Any] = builder.to_schema()
    return made


def main() -> None:
    """Print the figures."""
    event = an_event(SIZE_MB)
    equal = build_schema(infer_shape(event)) == genson_alone(event)
    both = best_of(lambda: build_schema(infer_shape(event)))
    genson = best_of(lambda: genson_alone(event))
    table = best_of(lambda: build_data_frame(event))
    rows = best_of(lambda: build_data_frame(event, list_path="body.items"))
    print(f"event of {SIZE_MB} MB, {len(event['body']['items'])} records; schemas equal: {equal}")
    print(f"shape + schema {both * 1e3:.0f} ms, genson alone {genson * 1e3:.0f} ms: ratio {both / genson:.2f}")
    print(f"frame(event) {table * 1e3:.0f} ms, frame(event, at='body.items') {rows * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
