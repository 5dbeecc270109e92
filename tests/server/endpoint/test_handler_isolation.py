"""One external user never sees another's account, event or answer, however their requests are mixed."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from pathlib import Path

from pdkernel.project import DeployedTrigger
from tests.builders import a_step, a_workflow, python_step
from tests.server.site import Site, site_of

USERS = 50
ROUNDS = 3
PYTHON = """
import json, os, tempfile
global left, held
seen = {
    "event": pd.steps["trigger"]["event"],
    "auth": dict(pd.inputs["slack"]["$auth"]),
    "left": globals().get("left"),
    "held": globals().get("held"),
    "environ": dict(os.environ),
    "files": {name: open(name).read() for name in os.listdir(".") if os.path.isfile(name)},
    "temporary": os.listdir(tempfile.gettempdir()),
}
held = [pd.steps["trigger"]["event"]["body"]]
left = os.environ["LEFT"] = seen["auth"]["oauth_access_token"]
open("left.txt", "w").write(left)
open(os.path.join(tempfile.gettempdir(), left), "w").close()
return json.loads(json.dumps(seen, default=str))
"""
NODE = """%%pdstep tell --lang node
const kept = [];
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps, $ }) {
const fs = await import("node:fs");
const seen = { left: globalThis.left ?? null, held: kept, env: process.env.LEFT ?? null, above: steps.look, auth: this.slack.$auth,
  files: fs.readdirSync(".") };
globalThis.left = this.slack.$auth.oauth_access_token;
process.env.LEFT = globalThis.left;
kept.push(globalThis.left);
await $.respond({ status: 200, body: seen });
  },
});
"""


def token(number: int) -> str:
    """The mark of a user's account: in no other's."""
    return f"xoxb-mark-{number:03d}-of-its-user"


async def ask(site: Site, number: int) -> str:
    """Everything that user *number*'s run could see."""
    headers = {"x-pd-external-user-id": f"user-{number:03d}"}
    answer = await site.http.post(site.path(), json={"mine": f"event-mark-{number:03d}"}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_fifty_users_on_four_places(tmp_path: Path) -> None:
    """Each run sees its own marks (so that the search is known to find marks), and nobody else's; so does its record."""
    steps = (
        python_step("look", PYTHON, options="--app slack"),
        a_step(NODE),
    )
    async with site_of(tmp_path, a_workflow(*steps, response="custom"), size=4) as site:
        for number in range(USERS):
            site.directory.add_account(
                app="slack", credentials={"oauth_access_token": token(number)}, external_user_id=f"user-{number:03d}"
            )
        order = [number for number in range(USERS) for _ in range(ROUNDS)]
        random.Random(7).shuffle(order)
        answers = await asyncio.gather(*(ask(site, number) for number in order))
        runs = await site.runs()

    for number, answer in zip(order, answers, strict=True):
        assert token(number) in answer
        assert f"event-mark-{number:03d}" in answer
        others = [
            mark for other in range(USERS) if other != number for mark in (token(other), f"event-mark-{other:03d}")
        ]
        assert [mark for mark in others if mark in answer] == []
    assert len(runs) == USERS * ROUNDS
    for run in runs:
        assert run.external_user is not None
        mine = run.external_user.removeprefix("user-")
        text = str(run.to_json())
        assert f"event-mark-{mine}" in text
        assert "xoxb-mark" not in text
        assert [other for other in range(USERS) if f"{other:03d}" != mine and f"event-mark-{other:03d}" in text] == []


def trigger(number: int, made_at: datetime) -> DeployedTrigger:
    """User *number*'s, with a mark in what it is configured with."""
    return DeployedTrigger(
        id=f"dc_{number:03d}",
        external_user_id=f"user-{number:03d}",
        environment="development",
        key="depot-new-thing",
        version="0.0.1",
        name=f"trigger-mark-{number:03d}",
        props={"mine": f"props-mark-{number:03d}"},
        accounts={},
        active=False,
        created_at=made_at,
        updated_at=made_at,
    )


def marks(number: int) -> list[str]:
    """What stands in user *number*'s accounts, triggers and events, and in nobody else's."""
    return [f"{kind}-mark-{number:03d}" for kind in ("name", "trigger", "props", "emitted")]


async def reach(site: Site, number: int, other: int) -> tuple[list[int], str]:
    """All that user *number*'s Connect token gets: what is theirs, then what is *other*'s; the statuses and the text."""
    project = f"/v1/connect/{site.context.project.project_id}"
    made = await site.http.post(
        f"{project}/tokens",
        json={"external_user_id": f"user-{number:03d}"},
        headers=site.token("connect:tokens:create"),
    )
    headers = {"authorization": f"Bearer {made.json()['token']}"}
    statuses, text = [], ""
    for whose, asks in ((number, True), (number, False), (other, True)):
        user = {"external_user_id": f"user-{whose:03d}"} if asks else {}
        for path in (
            "/accounts?include_credentials=true",
            f"/accounts/apn_{whose:03d}",
            f"/users/user-{whose:03d}/accounts",
            "/deployed-triggers",
            f"/deployed-triggers/dc_{whose:03d}",
            f"/deployed-triggers/dc_{whose:03d}/events",
        ):
            answer = await site.http.get(project + path, params=user if "?" not in path else None, headers=headers)
            statuses.append(answer.status_code)
            text += answer.text
    # another's trigger and account under one's own name
    for path in (f"/deployed-triggers/dc_{other:03d}/events", f"/accounts/apn_{other:03d}"):
        mine = {"external_user_id": f"user-{number:03d}"}
        answer = await site.http.get(project + path, params=mine, headers=headers)
        statuses.append(answer.status_code)
        text += answer.text
    return statuses, text


async def test_fifty_connect_tokens(tmp_path: Path) -> None:
    """A token gets its own user's accounts, triggers and events, and is refused all of another's, whatever names them."""
    async with site_of(tmp_path, a_workflow(python_step())) as site:
        for number in range(USERS):
            site.directory.add_account(
                app="slack",
                credentials={"oauth_access_token": token(number)},
                external_user_id=f"user-{number:03d}",
                account_id=f"apn_{number:03d}",
                name=f"name-mark-{number:03d}",
            )
            triggers = site.context.project.deployed_triggers
            triggers.add(trigger(number, site.context.clock.now()))
            triggers.add_events(
                f"dc_{number:03d}", [{"e": f"emitted-mark-{number:03d}", "k": "emit", "ts": 1, "id": "1"}]
            )
        others = [(number, (number * 7 + 3) % USERS) for number in range(USERS)]
        found = await asyncio.gather(*(reach(site, number, other) for number, other in others))

    for (number, other), (statuses, text) in zip(others, found, strict=True):
        assert number != other
        assert [mark for mark in marks(number) if mark not in text] == []
        assert [mark for each in range(USERS) if each != number for mark in marks(each) if mark in text] == []
        assert "xoxb-mark" not in text
        assert set(statuses[:12]) == {200}
        # a list without a name in its query is one's own
        assert [status for status in statuses[12:] if status not in (403, 404)] == [200]
