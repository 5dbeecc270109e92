"""
Worker processes that run steps. Node.js and Python workers are kept warm; a Bash or Go step has its own process.

    pool = WorkerPool(gateway=...)
    workers = await pool.open_run(RunSetup(...))
    outcome = await workers.run_step(StepCall(step, steps={...}), StepRecorder(step.name))
    await workers.release()
    await pool.close()
"""

from pdkernel.workers.calls import (
    Determinism,
    RunSetup,
    SourceCall,
    SourceOutcome,
    StepCall,
    StepOutcome,
    WorkerKey,
)
from pdkernel.workers.declarations import (
    FIRST_PAGE,
    ComponentDescription,
    ComponentFile,
    OptionsQuery,
    PropDeclaration,
    PropOption,
    PropOptionsPage,
)
from pdkernel.workers.go_build import GO_LOCK_NAME, GoBuildCache, GoLock
from pdkernel.workers.interpreters import find_bash, find_go, find_node
from pdkernel.workers.isolation import Isolation, StepAccess, is_step_user, make_scratch_folder, protect_process
from pdkernel.workers.isolation_plan import find_user_obstacle
from pdkernel.workers.pool import PooledRun, StepPool, WorkerPool
from pdkernel.workers.protocols import OutboundGateway, StepServices
from pdkernel.workers.recorder import MAX_RECORDED_CALLS_BYTES, StepRecorder, limit_prop
from pdkernel.workers.replies import Effect, Emitted, Pause
from pdkernel.workers.run_places import RunPlace, StepSequence
from pdkernel.workers.run_workers import RunWorkers
from pdkernel.workers.slot_cache import default_memory_budget, raise_descriptor_limit
from pdkernel.workers.step_errors import (
    PayloadLimitError,
    StepCompileError,
    StepConfigurationError,
    StepEntryPointError,
    StepUnsupportedError,
    build_payload_error,
)
from pdkernel.workers.warden_client import WARDEN
from pdkernel.workers.zygote import ZYGOTES

__all__ = [
    "FIRST_PAGE",
    "GO_LOCK_NAME",
    "MAX_RECORDED_CALLS_BYTES",
    "WARDEN",
    "ZYGOTES",
    "ComponentDescription",
    "ComponentFile",
    "Determinism",
    "Effect",
    "Emitted",
    "GoBuildCache",
    "GoLock",
    "Isolation",
    "OptionsQuery",
    "OutboundGateway",
    "Pause",
    "PayloadLimitError",
    "PooledRun",
    "PropDeclaration",
    "PropOption",
    "PropOptionsPage",
    "RunPlace",
    "RunSetup",
    "RunWorkers",
    "SourceCall",
    "SourceOutcome",
    "StepAccess",
    "StepCall",
    "StepCompileError",
    "StepConfigurationError",
    "StepEntryPointError",
    "StepOutcome",
    "StepPool",
    "StepRecorder",
    "StepSequence",
    "StepServices",
    "StepUnsupportedError",
    "WorkerKey",
    "WorkerPool",
    "build_payload_error",
    "default_memory_budget",
    "find_bash",
    "find_go",
    "find_node",
    "find_user_obstacle",
    "is_step_user",
    "limit_prop",
    "make_scratch_folder",
    "protect_process",
    "raise_descriptor_limit",
]
