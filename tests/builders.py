"""Builders of workflows, steps and events with defaults."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

from pdkernel.directive import parse_step_cell
from pdkernel.event import Event
from pdkernel.model import JSON, Step, Trigger, Workflow


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


def a_workflow(*steps: Step, name: str = "Test", response: Any = "default", **settings: JSON) -> Workflow:
    """A workflow of *steps* with an HTTP trigger."""
    return Workflow(name=name, triggers=(Trigger(response=response),), steps=steps, settings=settings)


def with_step(workflow: Workflow, step: Step) -> Workflow:
    """*workflow* with *step* in place of the step with its name, or as the last step."""
    steps = {known.name: known for known in workflow.steps} | {step.name: step}
    return replace(workflow, steps=tuple(steps.values()))


def an_event(body: JSON = None, **keys: JSON) -> Event:
    """A JSON POST of *body*."""
    event = Event.from_body({"name": "Ada"} if body is None else body)
    return Event({**event.data, **keys})
