"""Random workflows of nested blocks, and a model of what a run of them does by the documented rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from pdkernel.model import JSON, Block, Branch, Step, Workflow
from tests.builders import a_workflow, python_step


@dataclass
class Model:
    """
    What a run does by the documented rules, for conditions that the event holds by the name of the branch.

    Attributes:
        ran: The steps that run, or may run beside a branch that ends the run.
        seen: What each of them sees.
        exports: The exports of each step and block that ends.
        ends: How the run may end early; empty if it does not.
    """

    workflow: Workflow
    holds: Mapping[str, bool]
    ran: list[str] = field(default_factory=list)
    seen: dict[str, list[str]] = field(default_factory=dict)
    exports: dict[str, dict[str, JSON]] = field(default_factory=dict)
    ends: set[str] = field(default_factory=set)

    def run(self, inside: str | None = None, above: Sequence[str] = ()) -> tuple[JSON, bool]:
        """Run the entries of a branch below the visible names *above*; return the exports of the last one, and whether the branch ends the run."""
        visible, last = list(above), None
        for entry in self.workflow.entries(inside):
            if isinstance(entry, Block):
                value, has_ended = self._run_block(entry, visible)
                if has_ended:
                    return None, True
                self.exports[entry.name] = {"$return_value": value}
            else:
                self.ran.append(entry.name)
                self.seen[entry.name] = sorted([*visible, "trigger"])
                if entry.name.endswith(("_exit", "_fail")):
                    self.ends.add("exited" if entry.name.endswith("_exit") else "error")
                    return None, True
                self.exports[entry.name] = {"$return_value": self.seen[entry.name]}
            visible.append(entry.name)
            last = self.exports[entry.name]
        return last, False

    def _run_block(self, block: Block, visible: Sequence[str]) -> tuple[JSON, bool]:
        chosen = [branch.name for branch in block.branches if self._applies(block, branch)]
        if block.type != "parallel":
            chosen = chosen[:1]
        ran = {branch: self.run(f"{block.name}.{branch}", visible) for branch in chosen}
        values = {branch: value for branch, (value, _) in ran.items()}
        value = values if block.type == "parallel" else next(iter(values.values()), None)
        return value, any(has_ended for _, has_ended in ran.values())

    def _applies(self, block: Block, branch: Branch) -> bool:
        return branch.runs == "always" or (branch.runs == "when" and self.holds[f"{block.name}_{branch.name}"])


@st.composite
def runs(draw: st.DrawFn, begin: str = "", *, waits: bool = False) -> tuple[Workflow, dict[str, bool]]:
    """
    A workflow of nested blocks, and which of its conditions hold.

    Args:
        draw: Draws values.
        begin: The code at the beginning of each step, with the name of the step for `NAME`.
        waits: Whether some steps pause for an hour.
    """
    entries: list[Step | Block] = []
    holds: dict[str, bool] = {}

    def add_level(inside: str | None, depth: int) -> None:
        for _ in range(draw(st.integers(0, 3))):
            number = len(entries)
            if depth and draw(st.booleans()):
                add_block(f"b{number}", inside, depth)
            else:
                ends = draw(st.sampled_from(["", "", "", "", "", "_exit", "_fail", *["_wait"] * 2 * waits]))
                returns = "return sorted(pd.steps)"
                body = {
                    "": returns,
                    "_wait": f"pd.flow.delay(3600000)\n{returns}",
                    "_exit": "pd.flow.exit()",
                    "_fail": "raise ValueError",
                }[ends]
                name = f"s{number}{ends}"
                entries.append(replace(python_step(name, begin.replace("NAME", name) + body), inside=inside))

    def add_block(name: str, inside: str | None, depth: int) -> None:
        kind = draw(st.sampled_from(["if", "switch", "parallel"]))
        count = draw(st.integers(1, 3))
        branches = []
        for index in range(count):
            branch = f"x{index}"
            holds[f"{name}_{branch}"] = draw(st.booleans())
            path = f"steps.trigger.event.body.{name}_{branch}"
            condition: Any = {"t": "or", "r": [{"a": f"{{{{{path}}}}}", "op": "true"}]} if draw(st.booleans()) else path
            never = kind == "parallel" and draw(st.integers(0, 4)) == 0
            case = f"{{{{{path}}}}}"
            branches.append(
                Branch(branch, None if never else case if kind == "switch" else condition, "never" if never else "when")
            )
        if kind != "parallel" and draw(st.booleans()):
            branches.append(Branch("else" if kind == "if" else "default", runs="always"))
        entries.append(Block(name, kind, tuple(branches), "true" if kind == "switch" else None, inside))  # type: ignore[arg-type]
        for each in branches:
            add_level(f"{name}.{each.name}", depth - 1)

    add_level(None, 3)
    return a_workflow(*entries), holds
