"""Facts about Python steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checklist.conftest import Check
from tests.wheels import WheelFolder


async def test_the_names_of_pd(check: Check) -> None:
    """`pd` has steps, inputs, context, export, respond, flow (exit, delay, suspend, rerun) and send.email."""
    await check("pd", "python")


@pytest.mark.parametrize("language", ["node", "python"])
async def test_accounts_and_stores(check: Check, connect: Callable[..., str], language: str) -> None:
    """
    A prop has `$auth` or its store; in Python both are in `pd.inputs`.

    In Python a change inside a value that was read is not written back. A printed app in Node.js has no `$auth`.
    The run is `live`, because one under `deny` would write a scratch copy of the store and note that in its log.
    """
    connect("ada", account_id="apn_ada0001")
    await check("inputs", language, external_user_id="ada", egress="live")


async def test_magic_comments(check: Check, wheels: WheelFolder) -> None:
    """`# pipedream add-package` pins a version and names a package with another name; a workflow has one environment."""
    for version in ("1.0", "2.0"):
        wheels.publish("tiny", version)
    wheels.publish("other-name", "3.0", modules={"other_module.py": "VERSION = '3.0'\n"})
    await check("packages", "python")


async def test_html_replaces_the_text_unless_it_is_none(check: Check) -> None:
    """`html` of `pd.send.email` defaults to "" and then replaces the text, unless `html=None`."""
    await check("send-email", "python")


async def test_the_old_helper_module(check: Check) -> None:
    """`pipedream.script_helpers` has `steps` and `export`, and needs no handler."""
    await check("old-helper", "python")


@pytest.mark.parametrize("language", ["node", "python"])
async def test_sends_are_delivered_after_the_run(check: Check, language: str) -> None:
    """`$.send` is delivered after the workflow; the default channel of `emit` is ""."""
    await check("send", language)
