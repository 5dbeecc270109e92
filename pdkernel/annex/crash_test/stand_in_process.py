"""
The process of the built-in stand-ins: like the services that they stand in for, they remember what a killed process has sent.

Each run has stand-ins of its own, at `http://127.0.0.1:PORT/RUN`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import cast

from pdkernel.egress.recording import MAX_RECORDED_BODY_BYTES
from pdkernel.egress.stand_ins import ReceivedRequest, StandIn, StandInAnswer, build_stand_ins, select_stand_in

_SILENCE_S = 30.0


def run_stand_ins(names: str, port: Connection) -> None:
    """Answer requests in this process, which ends with its parent: the entry point of a forked process. *port* gets its port."""
    os.setsid()
    server = _Server(names)
    port.send(server.server_port)
    port.close()
    server.serve_forever()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, names: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._names = names
        self._stand_ins: dict[str, StandIn] = {}
        self._lock = threading.Lock()

    def service_actions(self) -> None:
        """End with the parent; called twice a second."""
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(0)

    def answer(self, run: str, request: ReceivedRequest) -> StandInAnswer:
        """Answer *request* with the stand-ins of *run*."""
        with self._lock:
            if run not in self._stand_ins:
                self._stand_ins[run] = select_stand_in(build_stand_ins(), self._names)
            return self._stand_ins[run].answer(request)


class _Handler(BaseHTTPRequestHandler):
    timeout = _SILENCE_S

    def _respond(self) -> None:
        body = b"".join(self._read_body())
        _, run, *rest = self.path.split("/", 2)
        path, _, query = "/".join(["", *rest]).partition("?")
        headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        host = headers.get("x-forwarded-host", "").partition(":")[0]
        received = ReceivedRequest(self.command, host, path, query, headers, body)
        answer = cast("_Server", self.server).answer(run, received)
        content = json.dumps(answer.body, ensure_ascii=False).encode()
        with suppress(OSError):  # the process that has asked was killed
            self.send_response(answer.status)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(content)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _respond  # noqa: N815 - the names that http.server calls

    def _read_body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield self.rfile.read(min(int(self.headers.get("content-length") or 0), MAX_RECORDED_BODY_BYTES))
            return
        left = MAX_RECORDED_BODY_BYTES
        while 0 < (size := int(self.rfile.readline() or b"0", 16)) <= left:
            yield self.rfile.read(size)
            self.rfile.readline()
            left -= size
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
