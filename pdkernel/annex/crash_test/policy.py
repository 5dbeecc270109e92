"""The outbound policy of a crash test: something other than the real host answers, unless the user asks for real calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pdkernel.egress import OutboundPolicy, choose_policy, parse_policy
from pdkernel.egress.outbound_policy import PolicyCell
from pdkernel.errors import RequestError

REAL_CALLS_OPTION = "--real-calls"


def choose_crash_policy(
    given: str | None,
    environ: Mapping[str, str],
    *,
    cells: Sequence[PolicyCell] = (),
    recording: Path | None = None,
    permits_real_calls: bool = False,
) -> OutboundPolicy:
    """
    Choose the outbound policy of a crash test.

    The first of these decides: *given*; `PDKERNEL_EGRESS` or the last of *cells*, if it sends nothing; *recording*, if that file exists;
    the default `deny`.

    Args:
        given: The policy that the user names, or None.
        environ: Environment variables.
        cells: The `%pdegress` cells of the notebook.
        recording: The recorded calls of the event, which need not exist; or None.
        permits_real_calls: Whether *given* may send calls for real.

    Raises:
        RequestError: *given* sends calls for real, and *permits_real_calls* is false; or it records them.
    """
    if given is None:
        found = choose_policy(None, environ, cells=cells)
        if found.is_test and found.origin != "pytest":
            return found
        if recording is not None and recording.is_file():
            return parse_policy(f"replay={recording}", origin="the recording of the event")
        return parse_policy("deny", origin="crash-test")
    policy = parse_policy(given, origin="--egress")
    if policy.mode == "record":
        raise RequestError(
            "A crash test makes calls again and again, so it does not record them.",
            fix=f"Record one run first: pdkernel run SOURCE --egress {policy.text}. Then use --egress replay={policy.recording_file}.",
        )
    if not policy.is_test and not permits_real_calls:
        raise RequestError(
            f"With the outbound policy {policy.text}, each call would be sent for real: once for each crash point, and twice where its "
            "step is repeated.",
            fix="Let something else answer: --egress stand-in=slack, --egress stand-in=URL or --egress replay=FILE. To send the calls "
            f"for real, add {REAL_CALLS_OPTION}.",
        )
    return policy
