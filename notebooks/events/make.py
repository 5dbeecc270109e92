"""
Make the events of this folder from the payloads of `@octokit/webhooks-examples`.

    python make.py PATH/TO/package/api.github.com/index.json
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def largest(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The example that is longest as text."""
    return max(examples, key=lambda example: len(json.dumps(example)))


def payloads(webhooks: dict[str, list[dict[str, Any]]]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File name, name of the webhook, and payload."""
    opened = [example for example in webhooks["issues"] if example["action"] == "opened"]
    yield "issues-opened.json", "issues", opened[0]
    yield "push.json", "push", next(example for example in webhooks["push"] if example["commits"])
    opened = [example for example in webhooks["pull_request"] if example["action"] == "opened"]
    yield "pull-request-opened.json", "pull_request", opened[0]
    yield "pull-request-labeled.json", "pull_request", largest(webhooks["pull_request"])


def event(name: str, payload: dict[str, Any], delivery: str) -> dict[str, Any]:
    """The request that delivers *payload*, as `steps.trigger.event` holds it."""
    return {
        "method": "POST",
        "path": "/",
        "query": {},
        "headers": {
            "accept": "*/*",
            "content-type": "application/json",
            "user-agent": "GitHub-Hookshot/044aadd",
            "x-github-delivery": delivery,
            "x-github-event": name,
        },
        "body": payload,
        "client_ip": "140.82.115.1",
        "url": "https://eoexample.m.pipedream.net/",
    }


def main(index: Path) -> None:
    """Write the files."""
    webhooks = {webhook["name"]: webhook["examples"] for webhook in json.loads(index.read_text(encoding="utf-8"))}
    for filename, name, payload in payloads(webhooks):
        delivery = str(uuid.uuid5(uuid.NAMESPACE_URL, filename))
        text = json.dumps(event(name, payload, delivery), ensure_ascii=False, indent=2)
        (FOLDER / filename).write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
