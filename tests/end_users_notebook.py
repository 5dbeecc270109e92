"""The setup of `notebooks/03_end_users.ipynb`: an account, and a link that is opened during the run."""

from __future__ import annotations

from typing import Any

import httpx

from pdkernel.connect import LocalDirectory
from pdkernel.project import Project
from tests.notebooks import ACCOUNTS, TOKEN
from tests.server.link.reading import Page

NAME = "03_end_users"
LINK_CELL = "link"


def prepare(project: Project) -> None:
    """Connect Slack for ada; grace connects Slack through the link."""
    LocalDirectory(project).add_account(
        app="slack",
        credentials={"oauth_access_token": f"{TOKEN}-ada"},
        external_user_id="ada",
        account_id=ACCOUNTS["ada"],
        name="ada",
    )


def link_of(text: str) -> str:
    """The link that a cell printed."""
    return next(word for word in text.split() if "connect.html" in word)


def open_link(cell: Any) -> None:
    """After the cell that prints a link, open the link and send a token, as grace does in a browser."""
    if cell.id != LINK_CELL:
        return
    link = link_of("".join(output["text"] for output in cell.outputs))
    with httpx.Client() as browser:
        page = Page(browser.get(link))
        typed = dict.fromkeys(page.inputs, f"{TOKEN}-grace")
        done = Page(browser.post(link.partition("?")[0], data={**page.hidden, **typed}))
    assert "Your slack account is connected." in done.words, done.words
