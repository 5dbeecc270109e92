"""
Processes that run a person's steps: Node.js and Python kept warm, Bash and compiled Go one a step.

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
from pdkernel.hosts.faults import StepCompileError, StepEntryPointError, StepUnsupportedError
from pdkernel.hosts.go import GO_LOCK_NAME, GoPrograms
from pdkernel.hosts.go_faults import PACKAGE_MISSING
from pdkernel.hosts.interpreters import find_bash, find_go, find_node
from pdkernel.hosts.pool import Hosts
from pdkernel.hosts.run import RunGuests
from pdkernel.hosts.warden import WARDEN

__all__ = [
    "GO_LOCK_NAME",
    "PACKAGE_MISSING",
    "WARDEN",
    "Description",
    "Effect",
    "Evaluation",
    "GoPrograms",
    "Hosts",
    "OutsideCalls",
    "Pause",
    "PropDeclaration",
    "RunGuests",
    "RunSetup",
    "StepCall",
    "StepCompileError",
    "StepDebugger",
    "StepEntryPointError",
    "StepListener",
    "StepOutcome",
    "StepServices",
    "StepUnsupportedError",
    "find_bash",
    "find_go",
    "find_node",
]
