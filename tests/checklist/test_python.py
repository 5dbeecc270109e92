"""The row "Python" of the checklist. Numbers are sections of the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checklist.conftest import Check
from tests.wheels import WheelFolder


async def test_the_names_of_pd(check: Check) -> None:
    """2.1, 2.3: steps, inputs, context, export, respond, flow (exit, delay, suspend, rerun) and send.email are there."""
    await check("pd", "python")


@pytest.mark.parametrize("language", ["node", "python"])
async def test_accounts_and_stores(check: Check, connect: Callable[..., str], language: str) -> None:
    """
    2.11, 2.10: `$auth` and the store of a prop, in Python both in `pd.inputs`.

    In Python what is changed inside a value that was read is not written back; printing an app in Node.js gives no `$auth`.
    """
    connect("ada", account_id="apn_ada0001")
    await check("inputs", language, external_user_id="ada")


async def test_magic_comments(check: Check, wheels: WheelFolder) -> None:
    """2.3: `# pipedream add-package` pins, and names what is called otherwise, noise and all; one environment per workflow."""
    for version in ("1.0", "2.0"):
        wheels.publish("tiny", version)
    wheels.publish("other-name", "3.0", modules={"other_module.py": "VERSION = '3.0'\n"})
    await check("packages", "python")


async def test_html_replaces_the_text_unless_it_is_none(check: Check) -> None:
    """2.3: `html` of `pd.send.email` defaults to "" and then overrides the text, unless `html=None`."""
    await check("send-email", "python")


async def test_the_old_helper_module(check: Check) -> None:
    """2.3: `pipedream.script_helpers` has `steps` and `export`, and needs no handler."""
    await check("old-helper", "python")


@pytest.mark.parametrize("language", ["node", "python"])
async def test_what_is_sent_is_sent_after_the_run(check: Check, language: str) -> None:
    """2.9: `$.send` is delivered when the workflow is over; the default channel of `emit` is ""."""
    await check("send", language)
