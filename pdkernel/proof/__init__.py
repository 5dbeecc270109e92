"""
An export, proven: the written files are read back and run beside the notebook's workflow on every saved event.

    prove        the order: read back, compare, run both sides, say what was found
    readback     the folder as a workflow, and as both sides are run
    definitions  a workflow's text compared with another's
    cases        events, their recordings, and whom they are run for
    leftout      steps that are not compared, and those that need them
    bench        runs a side: replayed calls, fixed clock and chance, stores of its own
    settled      users and accounts as they were at the first question
    executions   what two runs did, compared
    values       where two values differ

Nothing goes out and nothing of the project changes. Knows nothing of notebooks' sessions, commands or widgets.
"""

from pdkernel.proof.cases import resolve_recording_path
from pdkernel.proof.prover import ExportedNotebook, run_proof

__all__ = ["ExportedNotebook", "resolve_recording_path", "run_proof"]
