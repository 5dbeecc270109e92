"""Facts about the files of Bash and Go steps."""

from __future__ import annotations

import pytest

from tests.checklist.conftest import Check
from tests.checklist.languages import FILES


@pytest.mark.parametrize("language", FILES)
async def test_exports_are_lines_of_a_file(check: Check, language: str) -> None:
    """`name=value` is a text, even if the value looks like a number; `name:json=` is JSON; the last line of a name counts."""
    await check("exports-file", language)


@pytest.mark.parametrize("language", FILES)
async def test_steps_are_a_file(check: Check, language: str) -> None:
    """`PIPEDREAM_STEPS` is the path of a file with all of `steps`; `PIPEDREAM_EXPORTS` is the path of a file."""
    await check("steps-file", language)


@pytest.mark.parametrize("language", FILES)
async def test_an_exit_status_does_not_stop_the_workflow(check: Check, language: str) -> None:
    """`exit 1` and `os.Exit(3)` end the step only."""
    await check("exit-status", language)
