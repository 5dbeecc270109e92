"""The messages that the steps of one run have queued with `$.send`."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.common.encode import encode_json
from pdkernel.common.redaction import Redactor
from pdkernel.engine.deliveries import find_destination
from pdkernel.engine.restored_run import seal_message
from pdkernel.execution import Delivery
from pdkernel.journal import OutboxRow
from pdkernel.storage import Vault
from pdkernel.workers import Effect

_LANE_DIGITS = 16


class RunOutbox:
    """
    The queued messages of a run, which are recorded with its end or pause and delivered after that.

    Args:
        run_id: The run's id.
        vault: Encrypts the messages; None if the run is not recorded.
    """

    def __init__(self, run_id: str, vault: Vault | None) -> None:
        self._run_id = run_id
        self._vault = vault
        self._unsent: list[tuple[OutboxRow, str, Effect]] = []
        self._places: dict[OutboxRow, int] = {}

    @property
    def rows(self) -> list[OutboxRow]:
        """The rows of the queued messages."""
        return [row for row, _, _ in self._unsent]

    def add(self, step: str, number: int, sends: Sequence[Effect], redactor: Redactor) -> None:
        """Queue messages of the run *number* of a step."""
        for position, effect in enumerate(sends):
            payload = redactor.redact_value(dict(effect.payload))
            shown = encode_json(Delivery(step, effect.kind, "waiting", payload=payload)).decode()
            message = b"" if self._vault is None else seal_message(effect, self._run_id, step, self._vault)
            destination = find_destination(effect)
            lane = destination if self._vault is None else self._vault.sign(f"lane {destination}").hex()[:_LANE_DIGITS]
            row = OutboxRow(step, number, position, message, shown, lane)
            self._places[row] = len(self._places)
            self._unsent.append((row, step, effect))

    def find_place(self, row: OutboxRow) -> int:
        """Return the index of a message among all that were queued."""
        return self._places[row]

    def take(self) -> list[tuple[OutboxRow, str, Effect]]:
        """Return the queued messages, with the name of each step, and forget them."""
        unsent, self._unsent = self._unsent, []
        return unsent
