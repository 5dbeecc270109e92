"""The field for a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from comm.base_comm import BaseComm

from pdkernel.widgets.components import SecretField
from tests.widgets.front_end import type_into

TOKEN = "xoxb-planted-token"


class RecordingComm(BaseComm):
    """A comm that keeps what the kernel says."""

    def __init__(self, **options: Any) -> None:
        self.said: list[Any] = []
        super().__init__(**options)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        """Keep the message."""
        self.said.append(data)


@pytest.fixture
def comm() -> RecordingComm:
    """A comm to look into."""
    return RecordingComm(target_name="jupyter.widget")


@pytest.fixture
def field(comm: RecordingComm) -> SecretField:
    """A field into which the token was typed."""
    field = SecretField(comm=comm)
    type_into(field, TOKEN)
    return field


def test_take_forgets(field: SecretField) -> None:
    """Taking what was typed hands it over once."""
    taken = field.take_value()

    assert taken == TOKEN
    assert not field.has_value
    assert field.take_value() == ""
    assert TOKEN not in str(vars(field))


def test_front_end_is_emptied_at_once(field: SecretField, comm: RecordingComm) -> None:
    """The field on the screen is emptied as soon as what was typed has arrived, and says that it has."""
    assert field.has_value
    assert field.value == ""
    assert {"method": "update", "state": {"value": ""}, "buffer_paths": []} in comm.said
    assert field.placeholder.startswith("typed")


def test_closing_forgets(field: SecretField) -> None:
    """A field that is closed holds nothing."""
    field.close()

    assert not field.has_value


def test_typing_again_replaces(field: SecretField) -> None:
    """What is typed later takes the place of what was typed before."""
    type_into(field, "xoxb-second")

    assert field.take_value() == "xoxb-second"


def test_kernel_never_says_the_value(field: SecretField, comm: RecordingComm) -> None:
    """No message of the kernel holds what was typed: not the echo, not the state that a second front end asks for."""
    field._handle_msg({"content": {"data": {"method": "request_state"}}, "buffers": []})
    field.placeholder = "again"
    field.value = TOKEN + "2"
    field.take_value()

    assert comm.said
    assert TOKEN not in json.dumps(comm.said)


def test_state_is_blank(field: SecretField) -> None:
    """Neither the state nor the repr holds what was typed."""
    assert field.get_state()["value"] == ""
    assert TOKEN not in repr(field)
