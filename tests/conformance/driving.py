"""
Runs all checks with one SDK, and makes the table of the results.

The checks and the four end-user errors are listed here; the calls of an SDK are in its driver.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import httpx

from tests.conformance.sdks import Sdk
from tests.conformance.site import Site
from tests.server.link.visitor import Page

CHECKS: Mapping[str, str] = {
    "token": "access token",
    "private_key": "access token by a private key",
    "users": "users",
    "accounts": "accounts with credentials",
    "connect_token": "Connect token",
    "link": "an account connected at the link",
    "page": "a page's client, with a Connect token",
    "apps": "apps",
    "actions": "actions",
    "configure": "configure a prop",
    "reload_props": "props that a value brings",
    "run": "run an action",
    "proxy": "proxy",
    "deploy": "deploy, list, delete a trigger",
    "trigger": "change a trigger; its events, workflows, webhooks",
    "woken": "a trigger that requests wake",
    "project": "the project's apps",
    "invoke": "invoke for an external user",
    "no_user": "error: no external user ID",
    "unknown_user": "error: no matching external user ID",
    "no_account": "error: required account not found",
    "plan": "error: production needs a higher plan",
}
"""The name and the message of each error."""

ERRORS: Mapping[str, str] = {
    "no_user": "No external user ID passed, but one or more steps require it",
    "unknown_user": "No matching external user ID: nobody in development",
    "no_account": "Required account for slack not found for external user ID bob in development",
    "plan": "Running workflows for your users in production requires a higher tier plan",
}


@dataclass(frozen=True)
class Outcome:
    """
    The result of a check.

    Attributes:
        ok: Whether the check passed; None if the SDK has no such call.
        detail: The received value, or the error.
        status_only: Whether only the status was checked, because the SDK drops the text of errors.
    """

    ok: bool | None
    detail: str
    status_only: bool = False

    @property
    def mark(self) -> str:
        """The result in a table cell."""
        if self.ok is None:
            return "-"
        return ("status" if self.status_only else "yes") if self.ok else "NO"


def drive(sdk: Sdk, site: Site) -> dict[str, Outcome]:
    """Run every check with *sdk*; the account is connected meanwhile, as in a browser."""
    first = [name for name in CHECKS if name != "link"]
    found = _run(sdk, site, first)
    link = found["connect_token"]
    if link.ok:
        connected = _connect(link.detail, site.authority)
        [linked] = _run(sdk, site, ["linked"]).values()
        found["link"] = linked if connected is None else Outcome(False, connected)
    else:
        found["link"] = Outcome(False, "There was no link.")
    for name, words in ERRORS.items():
        found[name] = _judged(found[name], words, body_kept=not sdk.drops_bodies)
    return {name: found[name] for name in CHECKS}


def table(results: Iterable[tuple[Sdk, Mapping[str, Outcome]]]) -> str:
    """The results as a Markdown table."""
    driven = list(results)
    rows: list[Sequence[str]] = [("", *(f"`{sdk.package}` {sdk.version}" for sdk, _ in driven))]
    rows.append(["---"] * len(rows[0]))
    rows += [(words, *(outcomes[name].mark for _, outcomes in driven)) for name, words in CHECKS.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _run(sdk: Sdk, site: Site, checks: Sequence[str]) -> dict[str, Outcome]:
    given = {**site.settings(tls=sdk.tls, sdk=str(sdk)), "checks": checks}
    ended = subprocess.run(
        sdk.command(),
        input=json.dumps(given),
        env={"PATH": "/usr/bin:/bin", "NODE_EXTRA_CA_CERTS": site.authority},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"check"')]
    found = {
        line["check"]: Outcome(None if line["ok"] and line["detail"] is None else line["ok"], line["detail"] or "")
        for line in lines
    }
    return {name: found.get(name, Outcome(False, f"did not run: {ended.stderr[-1500:]}")) for name in checks}


def _connect(link: str, authority: str) -> str | None:
    """Connect a Slack account at *link*; return the error, or None."""
    with httpx.Client(verify=ssl.create_default_context(cafile=authority), timeout=60) as browser:
        page = Page(browser.get(f"{link}&app=slack"))
        if page.status != 200:
            return page.words
        fields = {**page.hidden, "field:oauth_access_token": "xoxb-conformance-new"}
        done = Page(browser.post(str(httpx.URL(link).copy_with(query=None)), data=fields))
        return None if done.status == 200 else done.words


def _judged(outcome: Outcome, words: str, *, body_kept: bool) -> Outcome:
    """Whether an error is the expected one: status 400, and its message if the SDK shows messages."""
    wanted = f"400 Pipedream Connect Error: {words}" if body_kept else "400"
    right = bool(outcome.ok) and outcome.detail.startswith(wanted)
    return Outcome(right, outcome.detail, status_only=not body_kept)
