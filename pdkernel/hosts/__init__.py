"""
Processes that run a person's steps: Node.js and Python kept warm, Bash and compiled Go one a step.

    hosts = Hosts(gateway=...)
    guests = await hosts.open(RunSetup(...))
    outcome = await guests.run(StepCall(step, steps={...}), listener)
    await guests.release()
    await hosts.close()
"""

from pdkernel.hosts.calls import (
    WORKING,
    RunSetup,
    SourceCall,
    SourceOutcome,
    StepCall,
    StepOutcome,
)
from pdkernel.hosts.declarations import ComponentFile, Description, Option, OptionsPage, PropDeclaration
from pdkernel.hosts.faults import (
    StepCompileError,
    StepConfigurationError,
    StepEntryPointError,
    StepUnsupportedError,
)
from pdkernel.hosts.fixed import Fixed
from pdkernel.hosts.go import GO_LOCK_NAME, GoPrograms
from pdkernel.hosts.interpreters import find_bash, find_go, find_node
from pdkernel.hosts.pool import Hosts
from pdkernel.hosts.private_tmp import scratch_folder, what_steps_have
from pdkernel.hosts.protocols import OutsideCalls, StepDebugger, StepListener, StepServices
from pdkernel.hosts.replies import Effect, Emitted, Evaluation, Pause
from pdkernel.hosts.run import RunGuests
from pdkernel.hosts.warden import WARDEN

__all__ = [
    "GO_LOCK_NAME",
    "WARDEN",
    "WORKING",
    "ComponentFile",
    "Description",
    "Effect",
    "Emitted",
    "Evaluation",
    "Fixed",
    "GoPrograms",
    "Hosts",
    "Option",
    "OptionsPage",
    "OutsideCalls",
    "Pause",
    "PropDeclaration",
    "RunGuests",
    "RunSetup",
    "SourceCall",
    "SourceOutcome",
    "StepCall",
    "StepCompileError",
    "StepConfigurationError",
    "StepDebugger",
    "StepEntryPointError",
    "StepListener",
    "StepOutcome",
    "StepServices",
    "StepUnsupportedError",
    "find_bash",
    "find_go",
    "find_node",
    "scratch_folder",
    "what_steps_have",
]
