"""
What a person has chosen in a notebook: the event, the external user, what becomes of outside calls, pins.

Knows how the choices go together and what of them is kept. Knows nothing of locks, listeners or runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pdkernel.egress import parse_policy
from pdkernel.event import Event
from pdkernel.identity import DEFAULT_ENVIRONMENT, Environment, check_external_user_id
from pdkernel.model import JSON
from pdkernel.session.event_library import TestEvent


class RunSettings:
    """
    The choices of one notebook.

    Args:
        egress: What becomes of outside calls until something else is chosen.

    Attributes:
        event_name: What the chosen event is called.
        external_user_id: On whose behalf steps run.
        environment: The external user's environment.
        egress: What becomes of outside calls, as `%pdegress` takes it.
        pins: Exports that are fixed, by step.
    """

    def __init__(self, *, egress: str) -> None:
        self._event: TestEvent | None = None
        self.event_name: str | None = None
        self.external_user_id: str | None = None
        self.environment: Environment = DEFAULT_ENVIRONMENT
        self.egress = egress
        self.pins: dict[str, dict[str, JSON]] = {}

    @property
    def event(self) -> TestEvent | None:
        """The chosen event, its `x-pd-*` headers as the external user is; or None."""
        if self._event is None:
            return None
        if self.external_user_id is None:
            return self._event.without_external_user().with_identity(None, self.environment)
        return self._event.with_identity(self.external_user_id, self.environment)

    @property
    def result_scope(self) -> str:
        """Event and external user that results belong to."""
        event = self.event
        return f"{event.digest() if event else ''}/{self.environment}/{self.external_user_id or ''}"

    def choose_user(self, external_user_id: str | None, environment: Environment | None) -> None:
        """Choose the external user, None for nobody; without an *environment* it stays as it is."""
        self.external_user_id = check_external_user_id(external_user_id) if external_user_id is not None else None
        if environment is not None:
            self.environment = environment

    def choose_event(self, event: Event, name: str) -> None:
        """Choose *event*, and the external user and the environment that its headers name."""
        self._event = TestEvent(dict(event.data), is_http=event.is_http)
        self.event_name = name
        if event.external_user_id is not None:
            self.external_user_id = event.external_user_id
        if event.environment in ("development", "production"):
            self.environment = "production" if event.environment == "production" else "development"

    def choose_egress(self, mode: str) -> None:
        """Choose what becomes of outside calls. Raises `EgressModeError`."""
        parse_policy(mode)
        self.egress = mode

    def to_json(self) -> dict[str, Any]:
        """As JSON, for keeping; secrets of the event are masked."""
        # what becomes of outside calls is not kept: a cell of the notebook says it, and none means the default
        return {
            "event": dict(self._event.with_masked_headers().data) if self._event is not None else None,
            "event_http": self._event is None or self._event.is_http,
            "event_name": self.event_name,
            "external_user_id": self.external_user_id,
            "environment": self.environment,
            "pins": dict(self.pins),
        }

    def restore(self, saved_state: Mapping[str, Any]) -> None:
        """The reverse of `to_json`."""
        http = bool(saved_state.get("event_http", True))
        self._event = TestEvent(saved_state["event"], is_http=http) if saved_state["event"] is not None else None
        self.event_name = saved_state["event_name"]
        self.external_user_id = saved_state["external_user_id"]
        self.environment = saved_state["environment"]
        self.pins = saved_state["pins"]
