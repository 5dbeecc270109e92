"""The row "Go/Bash" of the checklist. Numbers are sections of the reference."""

from __future__ import annotations

import pytest

from tests.checklist.conftest import Check
from tests.checklist.languages import FILES


@pytest.mark.parametrize("language", FILES)
async def test_exports_are_lines_of_a_file(check: Check, language: str) -> None:
    """2.4: `name=value` is a text, even if it looks like a number; `name:json=` is JSON; the last of a name counts."""
    await check("exports-file", language)


@pytest.mark.parametrize("language", FILES)
async def test_steps_are_a_file(check: Check, language: str) -> None:
    """2.4: `PIPEDREAM_STEPS` is the path of a file with the whole of `steps`, `PIPEDREAM_EXPORTS` that of a file."""
    await check("steps-file", language)


@pytest.mark.parametrize("language", FILES)
async def test_an_exit_status_does_not_stop_the_workflow(check: Check, language: str) -> None:
    """2.1: `exit 1` and `os.Exit(3)` end the step only."""
    await check("exit-status", language)
