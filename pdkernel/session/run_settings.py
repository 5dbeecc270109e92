"""The settings of a notebook's runs: test event, external user, environment, outbound policy and pins."""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.egress import OutboundPolicy, choose_policy, parse_policy
from pdkernel.event import Event
from pdkernel.identity import DEFAULT_ENVIRONMENT, Environment, check_external_user_id
from pdkernel.model import JSON
from pdkernel.operations.events import TestEvent
from pdkernel.session.draft import ExecutedCell
from pdkernel.session.state_store import SessionState
from pdkernel.session.step_results import StoredResult


class RunSettings:
    """
    The settings of one notebook. Not thread-safe: the session holds its lock.

    Args:
        environ: Environment variables, which choose the initial outbound policy.

    Attributes:
        event_name: The chosen event's name, or None.
        external_user_id: The external user that steps run for, or None.
        environment: The external user's environment.
        pins: Pinned exports by step.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._event: TestEvent | None = None
        self.event_name: str | None = None
        self.external_user_id: str | None = None
        self.environment: Environment = DEFAULT_ENVIRONMENT
        self._environ = environ
        self._policy: OutboundPolicy | None = None
        self.pins: dict[str, dict[str, JSON]] = {}

    @property
    def event(self) -> TestEvent | None:
        """The chosen event with the `x-pd-*` headers of the external user and environment; or None."""
        if self._event is None:
            return None
        if self.external_user_id is None:
            return self._event.without_external_user().with_identity(None, self.environment)
        return self._event.with_identity(self.external_user_id, self.environment)

    @property
    def result_scope(self) -> str:
        """A key for the event, environment and external user that results belong to."""
        event = self.event
        return f"{event.digest() if event else ''}/{self.environment}/{self.external_user_id or ''}"

    def choose_user(self, external_user_id: str | None, environment: Environment | None) -> None:
        """Choose the external user, or None; without *environment* the environment does not change."""
        self.external_user_id = check_external_user_id(external_user_id) if external_user_id is not None else None
        if environment is not None:
            self.environment = environment

    def choose_event(self, event: Event, name: str) -> None:
        """Choose *event*, and the external user and environment that its headers name."""
        self._event = TestEvent(dict(event.data), is_http=event.is_http)
        self.event_name = name
        if event.external_user_id is not None:
            self.external_user_id = event.external_user_id
        if event.environment in ("development", "production"):
            self.environment = "production" if event.environment == "production" else "development"

    @property
    def outbound_policy(self) -> OutboundPolicy:
        """The outbound policy: that of `%pdegress`, else the default. Raises `EgressModeError`."""
        return self._policy or choose_policy(None, self._environ)

    def choose_egress(self, text: str, *, origin: str = "%pdegress") -> None:
        """Choose the outbound policy; *origin* as in `OutboundPolicy`. Raises `EgressModeError`."""
        self._policy = parse_policy(text, origin=origin)

    def to_state(self, results: Mapping[str, StoredResult], cells: tuple[ExecutedCell, ...]) -> SessionState:
        """The settings with *results* and *cells*, for the next kernel; secrets of the event are masked."""
        # The outbound policy is not saved: a cell of the notebook sets it, and without such a cell the default applies.
        return SessionState(
            event=self._event.with_masked_headers().data if self._event is not None else None,
            event_http=self._event is None or self._event.is_http,
            event_name=self.event_name,
            external_user_id=self.external_user_id,
            environment=self.environment,
            pins=dict(self.pins),
            results=results,
            cells=cells,
        )

    def restore(self, state: SessionState) -> None:
        """Load the settings of an earlier kernel."""
        self._event = TestEvent(state.event, is_http=state.event_http) if state.event is not None else None
        self.event_name = state.event_name
        self.external_user_id = state.external_user_id
        self.environment = state.environment
        self.pins = dict(state.pins)
