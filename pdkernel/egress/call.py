"""
One outside call on its way to becoming a row of the ledger.

Knows what is written of a call and that it is written once, redacted, before the step sees the end of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.clock import Clock, iso
from pdkernel.egress.message import Answer, Request
from pdkernel.egress.refusals import Refusal
from pdkernel.egress.sent import is_safe
from pdkernel.egress.telling import hide_in_url
from pdkernel.egress.tickets import Binding
from pdkernel.execution import Outcome, OutsideCall


@dataclass(frozen=True, slots=True)
class Result:
    """How a call ended: the fields of `OutsideCall` that are known only then."""

    outcome: Outcome
    status: int | None = None
    note: str | None = None
    same_as: str | None = None
    size: int | None = None


class Call:
    """
    A call that a step makes.

    Attributes:
        binding: The step's binding when the call began.
        method: As in the ledger.
        url: Redacted.
        at: ISO time it began.
    """

    def __init__(self, binding: Binding, method: str, url: str, clock: Clock, request: Request | None = None) -> None:
        self.binding = binding
        self.method = method
        self.url = hide_in_url(binding.redactor.text(url))
        self.at = iso(clock.now())
        self._plain_url = url
        self._clock = clock
        self._began = clock.monotonic()
        self._request = request
        self._finished = False

    @property
    def duration_ms(self) -> float:
        """Milliseconds since it began."""
        return (self._clock.monotonic() - self._began) * 1000

    def finish(self, result: Result) -> None:
        """Write the row; only the first time counts."""
        if self._finished:
            return
        self._finished = True
        self.binding.on_call(
            OutsideCall(
                method=self.method,
                url=self.url,
                status=result.status,
                duration_ms=self.duration_ms,
                safe=is_safe(self.method),
                outcome=result.outcome,
                app=self._app(),
                at=self.at,
                same_as=result.same_as,
                step=self.binding.step,
                external_user=self.binding.external_user,
                bytes=result.size,
                note=None if result.note is None else self.binding.redactor.text(result.note),
            )
        )

    def fail(self, why: str, *, status: int | None = None) -> None:
        """
        Write the row of a call that got no whole answer, and tell the step's run; only the first time counts.

        Args:
            why: The cause; what is said of the outcome may follow.
            status: That of the answer that broke off, or None.
        """
        if self._finished:
            return
        what = "got no answer" if status is None else "got no whole answer"
        self.finish(Result("failed", status, note=f"{what.removeprefix('got ')}: {why}"))
        self.binding.on_failed(f"{self.method} {self.url} {what}: {self.binding.redactor.text(why)}")

    def refuse(self, refusal: Refusal) -> Answer:
        """Write the row, tell the step's run, and answer."""
        self.finish(Result("denied", refusal.status, note=refusal.message.partition("\n")[0]))
        self.binding.on_refused(refusal.message)
        return refusal.answer(method=self.method, url=self.url)

    def _app(self) -> str | None:
        """The app whose account's credential the call carried."""
        if not self.binding.apps:
            return None
        texts = [self._plain_url]
        if self._request is not None:
            texts += [value.decode("latin-1") for _, value in self._request.headers]
            texts.append(self._request.body.start.decode("utf-8", "replace"))
        refs = self.binding.redactor.found_in("\n".join(texts))
        return next((self.binding.apps[ref] for ref in refs if ref in self.binding.apps), None)
