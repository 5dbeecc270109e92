"""
A run in the background, its timeline drawn as it grows.

Knows the session's runs and how often a picture may change. Knows nothing of forms: it tells one when the run begins
and ends.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.render import note
from pdkernel.render.view import View
from pdkernel.session import Session, picture

REFRESH_S = 0.1
"""Seconds between two drawings of a growing timeline."""


class Runner:
    """
    Runs the session's workflow, one run at a time.

    Args:
        session: Whose workflow, on its chosen event.
        draw: Told every picture; from another thread.
        ended: Told when a run has ended; from another thread.

    Attributes:
        last: The last run that was started here and has ended, or None.
    """

    def __init__(self, session: Session, *, draw: Callable[[View], None], ended: Callable[[], None]) -> None:
        self._session = session
        self._draw = draw
        self._ended = ended
        self._fresh = threading.Event()
        self._latest: Execution | None = None
        self._stop: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self.stopping = False
        self.last: Execution | None = None

    @property
    def running(self) -> bool:
        """Whether a run that was started here goes on."""
        return self._stop is not None

    def start(self) -> None:
        """
        Start a run and return at once.

        Raises:
            PdkernelError: The workflow or the event is wrong, or a run goes on already.
        """
        self._latest = None
        self._fresh.clear()
        task = self._session.start(on_change=self._take)
        self._stop = task.cancel
        self._draw(_words("The run has started."))
        self._thread = threading.Thread(
            target=self._follow, args=(task.result, lambda: task.done), name="pdkernel-timeline", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to end; what it did until then is drawn."""
        stop = self._stop
        if stop is not None:
            self.stopping = True
            stop()

    def join(self, timeout_s: float) -> None:
        """Wait until the run, if there is one, has ended and its last picture is drawn."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _take(self, execution: Execution) -> None:
        # called in the engine's thread: keep it short
        self._latest = execution
        self._fresh.set()

    def _follow(self, result: Callable[[], Execution], done: Callable[[], bool]) -> None:
        try:
            while not done():
                # drawn here and not in `_take`, so that the last of a burst of changes is drawn, too
                if self._fresh.wait(REFRESH_S) and not done():
                    self._fresh.clear()
                    self._draw_latest()
                    threading.Event().wait(REFRESH_S)
            self.last = result()
            self._draw(picture(self._session, self.last))
        except KeyboardInterrupt:
            self._draw(_words("The run was stopped before its first step."))
        except PdkernelError as fault:
            self._draw(_words(str(fault)))
        except Exception as fault:  # noqa: BLE001 - nobody waits for this thread: what is not drawn is lost
            self._draw(_words(_where(fault)))
        finally:
            self._stop = None
            self.stopping = False
            self._ended()

    def _draw_latest(self) -> None:
        latest = self._latest
        if latest is not None:
            self._draw(picture(self._session, latest))


def _words(text: str) -> View:
    return View(text, note.html(text))


def _where(fault: BaseException) -> str:
    """What failed and where, without the fault's own text: nobody has searched that for secrets."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"The run could not be finished: {type(fault).__name__}{place}. This is a fault of pdkernel."
