"""
The caller's contract: which fields an event must have, derived from what the steps read.

Knows how Python, JavaScript, Bash with jq, and Go read the event, by real parsers. Guesses nothing: what only a run knows
is named as unknown. Runs no code.
"""

from pdkernel.contract.checking import Finding, check
from pdkernel.contract.comparing import Compared, compare
from pdkernel.contract.deriving import contract_of
from pdkernel.contract.drift import Drift, drift
from pdkernel.contract.examples import contract_schema, example, example_body
from pdkernel.contract.values import Place
from pdkernel.contract.words import Contract, Field, Reader, Use, order_of, path_of

__all__ = [
    "Compared",
    "Contract",
    "Drift",
    "Field",
    "Finding",
    "Place",
    "Reader",
    "Use",
    "check",
    "compare",
    "contract_of",
    "contract_schema",
    "drift",
    "example",
    "example_body",
    "order_of",
    "path_of",
]
