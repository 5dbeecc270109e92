"""A run in the background with a live timeline. Callbacks report each drawing and the end of the run."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session, render_timeline

REFRESH_S = 0.1
"""Seconds between two drawings of a live timeline."""


class BackgroundRunner:
    """
    Runs the session's workflow, one run at a time.

    Args:
        session: The session of the workflow and the chosen event.
        draw: Called with each drawing of the timeline, from another thread.
        ended: Called after the end of a run, from another thread.

    Attributes:
        is_stopping: Whether the user has stopped the current run.
        last_execution: The last finished run of this runner, or None.
    """

    def __init__(self, session: Session, *, draw: Callable[[RichOutput], None], ended: Callable[[], None]) -> None:
        self._session = session
        self._draw = draw
        self._ended = ended
        self._has_update = threading.Event()
        self._latest: Execution | None = None
        self._stop: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self.is_stopping = False
        self.last_execution: Execution | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run of this runner is in progress."""
        return self._stop is not None

    def start(self) -> None:
        """
        Start a run and return at once.

        Raises:
            PdkernelError: The workflow or the event is invalid, or a run is already in progress.
        """
        self._latest = None
        self._has_update.clear()
        task = self._session.start(on_change=self._on_change)
        self._stop = task.cancel
        self._draw(RichOutput.from_message("The run has started."))
        self._thread = threading.Thread(
            target=self._draw_until_done, args=(task.result, lambda: task.done), name="pdkernel-timeline", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Cancel the run; its timeline up to the end is drawn."""
        stop = self._stop
        if stop is not None:
            self.is_stopping = True
            stop()

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for the end of the run and its last drawing."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _on_change(self, execution: Execution) -> None:
        # runs in the engine's thread: must return quickly
        self._latest = execution
        self._has_update.set()

    def _draw_until_done(self, result: Callable[[], Execution], done: Callable[[], bool]) -> None:
        try:
            while not done():
                # drawn here and not in `_on_change`, so that the last of a burst of changes is drawn as well
                if self._has_update.wait(REFRESH_S) and not done():
                    self._has_update.clear()
                    self._draw_latest()
                    threading.Event().wait(REFRESH_S)
            self.last_execution = result()
            self._draw(render_timeline(self._session, self.last_execution))
        except KeyboardInterrupt:
            self._draw(RichOutput.from_message("The run was stopped before its first step."))
        except PdkernelError as fault:
            self._draw(RichOutput.from_message(str(fault)))
        except Exception as fault:  # noqa: BLE001 - no caller waits for this thread: an error must be drawn
            self._draw(RichOutput.from_message(_describe_failure(fault)))
        finally:
            self._stop = None
            self.is_stopping = False
            self._ended()

    def _draw_latest(self) -> None:
        latest = self._latest
        if latest is not None:
            self._draw(render_timeline(self._session, latest))


def _describe_failure(fault: BaseException) -> str:
    """The type and place of an internal error, without its message, which may contain secrets."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"The run failed with an internal error of pdkernel: {type(fault).__name__}{place}."
