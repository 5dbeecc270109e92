"""
Processes that run a person's steps: Node.js and Python kept warm, Bash one a step.

    hosts = Hosts(gateway=...)
    guests = await hosts.open(RunSetup(...))
    outcome = await guests.run(StepCall(step, steps={...}), listener)
    await guests.release()
    await hosts.close()
"""

from pdkernel.hosts.calls import (
    Description,
    Effect,
    Evaluation,
    OutsideCalls,
    Pause,
    PropDeclaration,
    RunSetup,
    StepCall,
    StepDebugger,
    StepListener,
    StepOutcome,
    StepServices,
)
from pdkernel.hosts.faults import StepEntryPointError, StepUnsupportedError
from pdkernel.hosts.interpreters import find_bash, find_node
from pdkernel.hosts.pool import Hosts
from pdkernel.hosts.run import RunGuests
from pdkernel.hosts.warden import WARDEN

__all__ = [
    "WARDEN",
    "Description",
    "Effect",
    "Evaluation",
    "Hosts",
    "OutsideCalls",
    "Pause",
    "PropDeclaration",
    "RunGuests",
    "RunSetup",
    "StepCall",
    "StepDebugger",
    "StepEntryPointError",
    "StepListener",
    "StepOutcome",
    "StepServices",
    "StepUnsupportedError",
    "find_bash",
    "find_node",
]
