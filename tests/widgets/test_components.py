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
    """A comm that stores the kernel's messages."""

    def __init__(self, **options: Any) -> None:
        self.said: list[Any] = []
        super().__init__(**options)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        """Store the message."""
        self.said.append(data)


@pytest.fixture
def comm() -> RecordingComm:
    """A comm to inspect."""
    return RecordingComm(target_name="jupyter.widget")


@pytest.fixture
def field(comm: RecordingComm) -> SecretField:
    """A field with a typed token."""
    field = SecretField(comm=comm)
    type_into(field, TOKEN)
    return field


def test_take_clears_the_field(field: SecretField) -> None:
    """`take` returns the typed text once."""
    taken = field.take_value()

    assert taken == TOKEN
    assert not field.has_value
    assert field.take_value() == ""
    assert TOKEN not in str(vars(field))


def test_the_front_end_is_cleared_at_once(field: SecretField, comm: RecordingComm) -> None:
    """The visible field is cleared as soon as the text has arrived, and confirms it."""
    assert field.has_value
    assert field.value == ""
    assert {"method": "update", "state": {"value": ""}, "buffer_paths": []} in comm.said
    assert field.placeholder.startswith("typed")


def test_closing_clears_the_field(field: SecretField) -> None:
    """A closed field has no text."""
    field.close()

    assert not field.has_value


def test_typing_again_replaces(field: SecretField) -> None:
    """Text that is typed later replaces the earlier text."""
    type_into(field, "xoxb-second")

    assert field.take_value() == "xoxb-second"


def test_kernel_messages_do_not_contain_the_value(field: SecretField, comm: RecordingComm) -> None:
    """No message of the kernel contains the text: neither the echo, nor the state for a second front end."""
    field._handle_msg({"content": {"data": {"method": "request_state"}}, "buffers": []})
    field.placeholder = "again"
    field.value = TOKEN + "2"
    field.take_value()

    assert comm.said
    assert TOKEN not in json.dumps(comm.said)


def test_state_is_blank(field: SecretField) -> None:
    """Neither the state nor the repr contains the text."""
    assert field.get_state()["value"] == ""
    assert TOKEN not in repr(field)
