"""Which external users a batch has, and its summary."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pdkernel.accounts import LocalDirectory
from pdkernel.accounts.remote import RemoteDirectory
from pdkernel.accounts.sdk import Sdk
from pdkernel.actions import Catalog
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ProductionPlanError
from pdkernel.execution import ErrorRecord, Status
from pdkernel.journal import RunSummary
from pdkernel.model import AppBinding, ForEach, Step, Workflow
from pdkernel.operations.batches import PAGE_SIZE, UserSelection, build_retry, iterate_pages, summarize
from pdkernel.storage import Batch, Project
from tests.accounts.upstream import Upstream, build_account
from tests.builders import python_step
from tests.engine.conftest import Run

NOTIFY = Workflow(
    "Report", steps=(Step("notify", "python", "def handler(pd):\n    pass", apps=(AppBinding("slack", "slack"),)),)
)


def select(project: Project, each: ForEach, workflow: Workflow = NOTIFY) -> UserSelection:
    """The selection of users of *project*."""
    return UserSelection(each, workflow, LocalDirectory(project), Catalog.for_project(project, environ={}))


def connect(project: Project, user: str, *apps: str) -> None:
    """Connect an account of each app for the user."""
    for app in apps:
        LocalDirectory(project).add_account(app=app, credentials={"token": "x"}, external_user_id=user)


def test_users_are_read_in_pages(project: Project) -> None:
    """A page has at most `PAGE_SIZE` users, in the order of their ids, and a listing goes on after any user."""
    users = [f"user-{number:04}" for number in range(PAGE_SIZE + 20)]
    for user in users:
        connect(project, user, "slack")
    selection = select(project, ForEach())

    pages = list(selection.list_pages())
    (rest,) = selection.list_pages(pages[0].last)

    assert [len(page.ready) for page in pages] == [PAGE_SIZE, 20]
    assert [user for page in pages for user in page.ready] == users
    assert rest == pages[1]


def test_ready_and_skipped_users(project: Project) -> None:
    """A user who lacks an account that a step needs is skipped; a user without an app of `having` is left out."""
    connect(project, "ada", "slack", "github")
    connect(project, "bob", "slack")
    connect(project, "eve", "github")

    (page,) = select(project, ForEach(having=("github",))).list_pages()

    assert (page.ready, page.skipped, page.last) == (["ada"], {"eve": ["slack"]}, "eve")


def test_users_have_every_app_of_having(project: Project) -> None:
    """A user with only one of several apps of `having` is left out."""
    connect(project, "ada", "slack", "github", "notion")
    connect(project, "bob", "slack", "github")

    (page,) = select(project, ForEach(having=("github", "notion"))).list_pages()

    assert (page.ready, page.skipped) == (["ada"], {})


def test_no_users_make_no_page(project: Project) -> None:
    """A project without external users has an empty batch."""
    assert list(select(project, ForEach()).list_pages()) == []


def test_the_plan_is_checked_once(project: Project) -> None:
    """The free plan has no runs for users in production, unless no step uses an account of theirs."""
    project.set_plan("free")
    production = ForEach(environment="production")
    select(project, production, Workflow("Empty")).check_plan()

    with pytest.raises(ProductionPlanError):
        select(project, production).check_plan()


def connect_thousands(upstream: Upstream) -> None:
    """3,000 users of the API, in pages of 100: two of three have Slack, every third has GitHub."""
    upstream.page_size = 100
    upstream.accounts["production"] = [
        build_account(f"apn_{number}", f"user-{number:04}", "github" if number % 3 == 2 else "slack", "oauth", 1, None)
        for number in range(3000)
    ]


def select_remote(project: Project, upstream: Upstream) -> UserSelection:
    """The selection of users in production of the Connect project."""
    directory, catalog = (RemoteDirectory(project, Sdk(upstream.login)), Catalog.for_project(project, environ={}))
    return UserSelection(ForEach(environment="production"), NOTIFY, directory, catalog)


async def test_thousands_of_a_connect_project_are_listed_once(project: Project, upstream: Upstream) -> None:
    """All pages of users need one listing of users and one of the accounts of an app, without credentials."""
    connect_thousands(upstream)

    pages = [page async for page in iterate_pages(select_remote(project, upstream))]

    asked = Counter(each["path"].rpartition("/")[2] for each in upstream.asked)
    assert sum(len(page.ready) for page in pages) == 2000
    assert sum(len(page.skipped) for page in pages) == 1000
    assert max(len(page.ready) + len(page.skipped) for page in pages) == PAGE_SIZE
    assert asked["users"] == 30
    assert asked["accounts"] == 20  # only those of Slack
    assert not any("include_credentials" in each["query"] for each in upstream.asked)


async def test_a_slow_api_does_not_block_the_loop(project: Project, upstream: Upstream) -> None:
    """While the API does not answer, other coroutines run."""
    connect_thousands(upstream)
    upstream.set(fault={"path": "/accounts", "kind": "held"})
    listing = asyncio.ensure_future(anext(iterate_pages(select_remote(project, upstream))))

    while not any(each["path"].endswith("/accounts") for each in upstream.asked):
        await asyncio.sleep(0.01)
    is_waiting = not listing.done()
    upstream.proceed.set()

    assert is_waiting
    assert len((await listing).ready) == 134


def run_of(user: str, status: Status) -> RunSummary:
    """The newest run of a user."""
    error = ErrorRecord("e", "Error", "no channel") if status == "error" else None
    return RunSummary(f"run-{user}", "Report", user, "development", status, 1, "", None, error)


BATCH = Batch("batch_1", "p_1", "schedule", "Report", "development", datetime(2026, 1, 1, tzinfo=UTC))
STATUSES: list[Status] = ["queued", "executing", "paused", "resumed", "success", "error", "exited", "cancelled"]


@given(st.dictionaries(st.text("abcde", min_size=1, max_size=3), st.sampled_from([*STATUSES, None]), max_size=30))
def test_every_user_is_counted_once(found: dict[str, Status | None]) -> None:
    """Waiting, in progress, succeeded, failed and skipped are all users; a failed one has the cause."""
    runs = [run_of(user, status) for user, status in found.items() if status is not None]
    skips = {user: ("slack",) for user, status in found.items() if status is None}

    summary = summarize(BATCH, runs, skips)

    counts = (summary.waiting, summary.in_progress, summary.succeeded, len(summary.failed), len(summary.skipped))
    assert sum(counts) == summary.users == len(found)
    assert {user.error for user in summary.failed if user.status == "error"} <= {"no channel"}


def test_a_user_with_a_run_is_not_skipped() -> None:
    """A page that was recorded twice, while the user connected the account, counts the run."""
    summary = summarize(BATCH, [run_of("ada", "success")], {"ada": ("slack",)})

    assert (summary.users, summary.succeeded, summary.skipped) == (1, 1, ())


async def test_a_retry_sends_no_call_again(run: Run, runtime: WorkflowEngine) -> None:
    """The new run of a failed one sends its outbound calls, and not those that the failed run has sent already."""
    failed = await run(python_step(body="1 / 0"), external_user_id="ada", egress="live")

    request = await build_retry(runtime, BATCH, replace(run_of("ada", "error"), id=failed.id))

    assert (request.policy.mode, request.is_silent, request.options.resend) == ("live", False, False)
