"""Redaction in the record of one step."""

from __future__ import annotations

import asyncio

import pytest

from pdkernel.clock import SYSTEM_CLOCK
from pdkernel.engine.step_recorder import SHORTENED, StepRecorder
from pdkernel.errors import StepError
from pdkernel.redaction import Redactor, Secret

TOKEN = "xoxb-made-up-for-tests"
REF = "slack/apn_1/bot_token"
ENCODED = TOKEN.encode().hex()


@pytest.fixture
async def recorder() -> StepRecorder:
    """The recorder of a step whose run has a token and a short secret."""
    return StepRecorder(
        "code",
        redactor=Redactor([Secret(REF, TOKEN), Secret("bank/apn_2/pin", "4711")]),
        clock=SYSTEM_CLOCK,
        accounts=(),
        on_change=None,
        on_respond=lambda _: None,
        call_later=asyncio.get_running_loop().call_later,
    )


async def test_name_of_an_export_is_redacted(recorder: StepRecorder) -> None:
    """An export with a token as its name has a placeholder as its name, in the growing and in the final record."""
    recorder.export(TOKEN, 1)
    before = recorder.snapshot()

    after = recorder.finish("success", exports={TOKEN: 1})

    assert before.exports == after.exports == {f"⟦secret:{REF}⟧": 1}


async def test_short_secret_is_hidden_in_the_export_of_its_name(recorder: StepRecorder) -> None:
    """A short secret is redacted in the export with the name of the secret."""
    result = recorder.finish("success", exports={"pin": "4711", "count": "4711"})

    assert result.exports == {"pin": "⟦secret:bank/apn_2/pin⟧", "count": "4711"}


async def test_name_of_an_error_is_redacted(recorder: StepRecorder) -> None:
    """An error with a token as its class name has a placeholder as its name."""
    result = recorder.finish("error", exports={}, error=StepError("No.", name=f"Error of {TOKEN}"))

    assert result.error is not None
    assert result.error.name == f"Error of ⟦secret:{REF}⟧"


@pytest.mark.parametrize("length", range(1, len(ENCODED)))
async def test_part_of_a_secret_at_the_end_of_a_shortened_local_is_left_out(
    recorder: StepRecorder, length: int
) -> None:
    """No part of an encoded token stays at the end of a shortened local variable."""
    stack = f"      whole = {ENCODED}, half = {ENCODED[:length]}{SHORTENED}\n      n = 1\nValueError: {TOKEN}"

    result = recorder.finish("error", exports={}, error=StepError("No.", name="ValueError", stack=stack))

    assert result.error is not None
    assert result.error.stack == (
        f"      whole = ⟦secret:{REF}|hex⟧, half = {SHORTENED}\n      n = 1\nValueError: ⟦secret:{REF}⟧"
    )


async def test_dots_in_the_middle_of_a_line_shorten_nothing(recorder: StepRecorder) -> None:
    """Only a mark at the end of a line means that the line was shortened."""
    stack = f"ValueError: waiting for x{SHORTENED} of y"

    result = recorder.finish("error", exports={}, error=StepError("No.", name="ValueError", stack=stack))

    assert result.error is not None
    assert result.error.stack == stack
