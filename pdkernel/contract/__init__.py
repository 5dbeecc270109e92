"""
The caller's contract: which fields an event must have, derived from what the steps read.

Python, JavaScript and `{{ }}` expressions are read by real parsers; no code runs. Keys that only a run determines, and the
code of Bash and Go steps, are reported as unknown.
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
