"""
What `%pdshape --contract` shows.

Knows which events stand beside the contract. What it says of them is `contract`'s, and how it looks `render`'s.
"""

from __future__ import annotations

from pdkernel.contract import compare, contract_of, example
from pdkernel.render import contract as render_contract
from pdkernel.render.view import View
from pdkernel.session import Session
from pdkernel.session.contract import saved_events


def contract_view(session: Session, names: list[str]) -> View:
    """What the steps read of an event, beside the events of these *names*, or all that are saved and the chosen one."""
    http = session.workflow.trigger.type == "http"
    saved = saved_events(session.events, http=http)
    contract = contract_of(session.workflow)
    looked_at = {name: dict(session.events.load(name, http=http)[1].data) for name in names}
    if not names and session.event is not None:
        looked_at[session.event_name or "the event"] = dict(session.event.data)
    compared = [compare(contract, name, data, saved) for name, data in looked_at.items()]
    # which of the saved events was there before which, nobody knows
    others = {} if names else {name: data for name, data in saved.items() if name not in looked_at}
    compared += [compare(contract, name, data, {}) for name, data in others.items()]
    return render_contract.view(
        contract,
        name=session.workflow.name,
        compared=compared,
        example=example(contract, list(saved.values()), http=http),
    )
