"""The limits of a workflow hold for every way in, at the moments when steps execute, as the steps themselves log them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cli.fork_server import ForkServer
from tests.durability.server_process import ENDED, Answer, ServerProcess, new_project, server_of

ONE = "%%pdworkflow\nname: {name}\nsettings: {{concurrency: 1}}\n"
THROTTLED = "%%pdworkflow\nname: {name}\nsettings: {{throttle: {{limit: 3, interval: 1}}}}\n"
TRIGGER = "return pd.flow.trigger('limited', {'n': 1})"
EVENTS = 6


def spans_of(log: Path) -> list[tuple[float, float]]:
    """When each execution of the step `span` began and ended, in the order of their begins."""
    times = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return sorted((began, ended) for began, ended in times)


def span(log: Path, body: str = "time.sleep(0.2)") -> str:
    """The cell of a step that logs when it begins and ends, around *body*."""
    return f"""%%pdstep span
import json, os, time
def handler(pd):
    began = time.time()
    {body}
    line = json.dumps([began, time.time()]) + "\\n"
    file = os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)
"""


def most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    """The largest number of spans that contain one moment."""
    return max((sum(began <= moment < ended for began, ended in spans) for moment, _ in spans), default=0)


def most_in_period(spans: Sequence[tuple[float, float]], period_s: float) -> int:
    """The largest number of spans that began within *period_s*."""
    return max((sum(first <= began < first + period_s for began, _ in spans) for first, _ in spans), default=0)


def wait_for_spans(server: ServerProcess, log: Path, count: int) -> list[tuple[float, float]]:
    """The spans, as soon as there are *count* of them."""
    server.wait_until(lambda: len(spans_of(log)) >= count)
    return spans_of(log)


def send_all(send: Callable[[int], Answer], count: int = EVENTS) -> list[Answer]:
    """Call *send* with each number at the same time."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(send, range(count)))


def test_one_run_executes_at_a_time(fork_server: ForkServer, tmp_path: Path) -> None:
    """Stored events, events that are not stored, and the child runs of both share `concurrency: 1`, in each order."""
    log = tmp_path / "spans.log"
    with server_of(fork_server, tmp_path / "project") as server:
        limited = [ONE.format(name="limited"), span(log)]
        new_project(server.folder, [f"%%pdstep call\ndef handler(pd):\n    {TRIGGER}\n"], limited=limited)
        server.more = ("limited.ipynb",)
        server.start()
        urls = server.urls
        spans: list[tuple[float, float]] = []
        for name, is_stored in [
            ("limited", lambda _: False),
            ("limited", lambda number: number % 2 == 0),
            ("flow", lambda _: True),
            ("flow", lambda _: False),
            ("flow", lambda number: number % 2 == 0),
        ]:

            def send(number: int, url: str = urls[name], is_stored: Callable[[int], bool] = is_stored) -> Answer:
                return server.post(url, {}, **({} if is_stored(number) else {"x_pd_nostore": "1"}))

            answers = send_all(send)
            spans = wait_for_spans(server, log, len(spans) + EVENTS)

            assert [answer.status for answer in answers] == [200] * EVENTS
            assert most_at_once(spans) == 1
            server.wait_for(ENDED)
            server.wait_for("select 1 where not exists (select 1 from turns)")


def test_starts_are_counted_when_steps_start(fork_server: ForkServer, tmp_path: Path) -> None:
    """Runs that waited for a place start no faster than `throttle` permits, although they were claimed long before."""
    gate, ways = tmp_path / "gate", ("stored", "nostore", "both")
    logs = {way: tmp_path / f"{way}.log" for way in ways}
    with server_of(fork_server, tmp_path / "project") as server:
        busy = f"import os, time\ndef handler(pd):\n    while not os.path.exists({str(gate)!r}): time.sleep(0.02)\n"
        limited = {way: [THROTTLED.format(name=way), span(logs[way], "pass")] for way in ways}
        new_project(server.folder, ["%%pdstep busy\n" + busy], token=None, **limited)
        server.more = (*(f"{way}.ipynb" for way in ways), "--max-active-runs", "4")
        server.start()
        urls = server.urls
        for _ in range(4):
            server.post(server.endpoint, {})

        def send(number: int) -> Answer:
            way = ways[number % 3]
            is_stored = way == "stored" or (way == "both" and number % 2 == 0)
            return server.post(urls[way], {}, **({} if is_stored else {"x_pd_nostore": "1"}))

        send_all(send, 27)
        time.sleep(2.5)  # more than two periods, in which runs may be claimed
        gate.touch()
        spans = {way: wait_for_spans(server, logs[way], 9) for way in ways}

        # a busy machine runs the first line of a step a little later
        assert {way: most_in_period(each, 0.8) for way, each in spans.items()} == dict.fromkeys(ways, 3)


def test_a_throttle_is_used_up_and_never_exceeded(fork_server: ForkServer, tmp_path: Path) -> None:
    """Under a throttle of 10 a second, each eleventh step begins a second after the first of its ten, and soon after that."""
    log = tmp_path / "spans.log"
    with server_of(fork_server, tmp_path / "project") as server:
        cells = ["%%pdworkflow\nname: Flow\nsettings: {throttle: {limit: 10, interval: 1}}\n", span(log, "pass")]
        new_project(server.folder, cells)
        server.start()
        send_all(lambda n: server.post(server.endpoint, {}), 41)
        began = [at for at, _ in wait_for_spans(server, log, 41)]

        gaps = [later - first for first, later in zip(began, began[10:], strict=False)]
        print(f"40 starts in {began[40] - began[0]:.2f} s; the shortest period of ten: {min(gaps):.3f} s")
        assert min(gaps) > 0.95  # a busy machine runs the first line of a step a little later
