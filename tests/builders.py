"""Builders of workflows, steps and events with defaults, a gate that a step waits for, and the time of an event loop."""

from __future__ import annotations

import asyncio
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdkernel.event import Event
from pdkernel.language.directive import parse_block_cell, parse_step_cell
from pdkernel.model import JSON, Block, Step, Trigger, Workflow


def a_step(text: str) -> Step:
    """The step of a cell with *text*, which is dedented."""
    return parse_step_cell(textwrap.dedent(text).lstrip("\n")).step


def python_step(name: str = "code", body: str = "return 1", *, options: str = "") -> Step:
    """A Python step whose handler has *body*."""
    code = textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")
    return a_step(f"%%pdstep {name} {options}".rstrip() + f"\ndef handler(pd):\n{code}\n")


def node_step(name: str = "code", body: str = "return 1", *, props: str = "", options: str = "") -> Step:
    """A Node.js step whose `run` has *body*."""
    declared = f"props: {props}," if props else ""
    code = f"export default defineComponent({{ {declared}\n  async run({{ steps, $ }}) {{\n{textwrap.dedent(body)}\n  }},\n}});\n"
    return a_step(f"%%pdstep {name} --lang node {options}".rstrip() + "\n" + code)


def bash_step(name: str = "code", body: str = "true", *, options: str = "") -> Step:
    """A Bash step with *body*."""
    return a_step(f"%%pdstep {name} --lang bash {options}".rstrip() + "\n" + textwrap.dedent(body).lstrip("\n"))


def go_step(name: str = "code", body: str = "", *packages: str, options: str = "") -> Step:
    """A Go step whose `main` has *body* and which imports *packages* and the helper; the body begins at line 8."""
    imports = "".join(f'"{package}"; ' for package in packages)
    code = f'package main\n\nimport ({imports}pd "github.com/PipedreamHQ/pipedream-go")\n\nvar _ = pd.Steps\n'
    return a_step(
        f"%%pdstep {name} --lang go {options}".rstrip() + f"\n{code}func main() {{\n{textwrap.dedent(body)}\n}}\n"
    )


def a_workflow(*entries: Step | Block, name: str = "Test", response: Any = "default", **settings: JSON) -> Workflow:
    """A workflow of steps and blocks, in the order of their cells, with an HTTP trigger."""
    steps = tuple(entry for entry in entries if isinstance(entry, Step))
    above = [sum(isinstance(entry, Step) for entry in entries[:place]) for place in range(len(entries))]
    placed = zip(entries, above, strict=True)
    blocks = tuple(replace(entry, place=place) for entry, place in placed if isinstance(entry, Block))
    return Workflow(name, (Trigger(response=response),), steps, settings, blocks=blocks)


def a_block(text: str) -> Block:
    """The block of a cell with *text*, which is dedented."""
    return parse_block_cell(textwrap.dedent(text).strip("\n"))


def with_step(workflow: Workflow, step: Step) -> Workflow:
    """*workflow* with *step* in place of the step with its name, or as the last step."""
    steps = {known.name: known for known in workflow.steps} | {step.name: step}
    return replace(workflow, steps=tuple(steps.values()))


def an_event(body: JSON = None, **keys: JSON) -> Event:
    """A JSON POST of *body*."""
    event = Event.from_body({"name": "Ada"} if body is None else body)
    return Event({**event.data, **keys})


class Gate:
    """
    Two files by which a test holds a Python step: the step waits at `code` until the test calls `open`.

    Attributes:
        code: A line of a Python handler.
    """

    def __init__(self, folder: Path) -> None:
        self._reached, self._opened = folder / "gate-reached", folder / "gate-opened"
        self.code = (
            f"import pathlib, time; pathlib.Path({str(self._reached)!r}).touch(); "
            f"[time.sleep(0.01) for _ in iter(lambda: pathlib.Path({str(self._opened)!r}).exists(), True)]"
        )

    async def wait_until_reached(self) -> None:
        """Wait until the step waits at the gate."""
        async with asyncio.timeout(60):
            while not self._reached.exists():
                await asyncio.sleep(0.01)

    def open(self) -> None:
        """Let the step continue."""
        self._opened.touch()


async def skip_time(seconds: float) -> None:
    """
    Let *seconds* pass for the running event loop: its timers that are due by then fire.

    Less than half a second passes at a time, because a longer jump means that the process was stopped, whose time does not count for a step.
    """
    loop = asyncio.get_running_loop()
    before, skipped = loop.time, 0.0
    loop.time = lambda: before() + skipped  # type: ignore[method-assign]
    while skipped < seconds:
        skipped = min(seconds, skipped + 0.4)
        await asyncio.sleep(0)
