"""
What `%pdshape --contract` shows.

Knows which events stand beside the contract. What it says of them is `contract`'s, and how it looks `render`'s.
"""

from __future__ import annotations

from pdkernel.analysis import build_example_event, compare_event, derive_contract
from pdkernel.render import contract as render_contract
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session
from pdkernel.session.event_contract import load_saved_events


def build_contract_output(session: Session, names: list[str]) -> RichOutput:
    """What the steps read of an event, beside the events of these *names*, or all that are saved and the chosen one."""
    http = session.workflow.trigger.type == "http"
    saved = load_saved_events(session.events, http=http)
    contract = derive_contract(session.workflow)
    looked_at = {name: dict(session.events.load(name, http=http)[1].data) for name in names}
    if not names and session.event is not None:
        looked_at[session.event_name or "the event"] = dict(session.event.data)
    compared = [compare_event(contract, name, data, saved) for name, data in looked_at.items()]
    # which of the saved events was there before which, nobody knows
    others = {} if names else {name: data for name, data in saved.items() if name not in looked_at}
    compared += [compare_event(contract, name, data, {}) for name, data in others.items()]
    return render_contract.render_output(
        contract,
        name=session.workflow.name,
        comparisons=compared,
        example=build_example_event(contract, list(saved.values()), is_http=http),
    )
