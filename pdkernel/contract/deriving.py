"""
The caller's contract of a workflow, from what its steps read.

Knows how the reads of several steps go together. A step that returns the event, or a part of it, hands it on to the
steps below; what a step makes of it otherwise is not followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pdkernel.contract.lookups import CONTAINERS
from pdkernel.contract.reading import Read, reads_of
from pdkernel.contract.values import ITEM, Place, Value
from pdkernel.contract.words import Contract, Expected, Field, Reader, Use, order_of
from pdkernel.model import Workflow


def contract_of(workflow: Workflow) -> Contract:
    """Which fields the events of *workflow* must have; its disabled steps read nothing."""
    exports: dict[tuple[str, str], Value] = {}
    found: dict[Place, list[Read]] = {}
    unread: list[Reader] = []
    for step in workflow.steps:
        if step.disabled:
            continue
        reads = reads_of(step, exports)
        if not reads.is_read:
            unread.append(Reader(step.name, step.cell + 1 if step.cell is not None else None))
        for place, read in reads.places.items():
            found.setdefault(place, []).append(read)
        exports.update(((step.name, name), value) for name, value in reads.exports.items())
    return _contract(found, tuple(unread))


def _contract(found: dict[Place, list[Read]], unread: tuple[Reader, ...]) -> Contract:
    places = {place: _expected(place, reads) for place, reads in sorted(found.items(), key=_in_order) if place}
    fields = [
        Field(
            place,
            _is_required(place, places),
            expected.types,
            _sorted(r for read in found[place] if read.ends for r in read.readers),
        )
        for place, expected in places.items()
        if _is_field(place, found[place])
    ]
    return Contract(
        fields=tuple(fields),
        whole=_uses({place: [read.whole for read in reads] for place, reads in found.items()}),
        unknown=_uses({place: [read.unknown for read in reads] for place, reads in found.items()}),
        places=places,
        unread=unread,
    )


def _in_order(item: tuple[Place, object]) -> list[str]:
    return [str(segment) for segment in item[0]]


def _expected(place: Place, reads: list[Read]) -> Expected:
    needed = any(read.needs for read in reads) or (place[-1] != ITEM and not any(read.copes for read in reads))
    return Expected(needed, _types(reads), _sorted(reader for read in reads for reader in read.readers))


def _types(reads: list[Read]) -> tuple[str, ...]:
    if any(read.untyped for read in reads):
        return ()
    types = {name for read in reads for name in read.types}
    return tuple(sorted(types - {"numeric"} if "number" in types else types))


def _is_required(place: Place, places: dict[Place, Expected]) -> bool:
    """
    Whether the field must be there: it is needed, and so is everything around it.

    A list may be empty. A step that leaves when there is no body at all still counts on what must be in one.
    """
    above = (place[:length] for length in range(1, len(place) + 1))
    free = (each for each in above if each[-1] != ITEM and (each not in CONTAINERS or each == place))
    return all(each not in places or places[each].needed for each in free)


def _is_field(place: Place, reads: list[Read]) -> bool:
    if place in CONTAINERS:
        types = {name for read in reads if read.ends and not read.untyped for name in read.types}
        return bool(types - {"object", "array"})
    return any(read.ends for read in reads)


def _sorted(readers: Iterable[Reader]) -> tuple[Reader, ...]:
    return tuple(sorted(set(readers), key=order_of))


def _uses(found: Mapping[Place, list[set[Reader]]]) -> tuple[Use, ...]:
    uses = ((place, _sorted(set().union(*readers))) for place, readers in sorted(found.items(), key=_in_order))
    return tuple(Use(place, readers) for place, readers in uses if readers)
