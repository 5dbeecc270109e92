"""One request to a worker. `test_worker.py` and `test_calls.py` have the replies of real steps."""

from __future__ import annotations

import sys

import pytest

from pdkernel.errors import StepError
from pdkernel.workers import StepRecorder
from pdkernel.workers.step_exchange import StepExchange
from pdkernel.workers.worker import Worker
from pdkernel.workers.worker_command import WorkerCommand


async def test_a_worker_that_does_not_start_is_no_timeout() -> None:
    """A worker that is never ready fails the step with that reason, however long the step may run."""
    worker = Worker("python", WorkerCommand([sys.executable, "-c", "import time; time.sleep(60)"]), {}, None)
    exchange = StepExchange(worker, StepRecorder("one"))
    try:
        exchange.send({}, [], timeout_s=60, startup_timeout_s=0.01)
        with pytest.raises(StepError) as failed:
            await exchange.reply
    finally:
        exchange.close()
        worker.kill()

    assert failed.value.name == "ProcessNotStarted"
    assert failed.value.message == "The step's process could not be started: it was not ready after 0.01 s."
    assert not worker.is_healthy
