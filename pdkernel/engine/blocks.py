"""
Decides which branches of a block run, and collects what later steps read of it.

The decision is a row of the journal before a step of a branch starts, so a run that another executor continues never evaluates the
conditions again. The exports of a block follow from those of its steps and have no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from pdkernel.common.clock import Clock, format_iso
from pdkernel.engine.props import TemplateError, evaluate_templates
from pdkernel.engine.restored_run import RestoredRun
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.run_state import RunState
from pdkernel.engine.step_executor import pin_exports, refuse_unreadable, restore_exports
from pdkernel.errors import PdkernelError, StepError
from pdkernel.execution import RETURN_VALUE, BlockChoice, ErrorRecord, Status, StepResult, build_block_exports
from pdkernel.language.expression import (
    EXPRESSION_KEY,
    UNDEFINED,
    get_condition_template,
    get_switch_template,
    judge_branch,
    read_operands,
)
from pdkernel.model import JSON, Block, Branch, Workflow
from pdkernel.workers import limit_prop

CONDITION_TIMEOUT_S = 30.0
"""Seconds that the conditions of a block may take together."""


async def start_block(run: RunState, block: Block, state: RestoredRun, clock: Clock) -> BlockChoice | Status | None:
    """
    Decide what runs of *block*, unless *state* has its decision.

    Returns:
        The choice, whose branches are to run; a status if the run ends; None if nothing of the block runs: it is pinned, or its cell
        cannot be read.
    """
    request = run.request
    if refuse_unreadable(run, block) or pin_exports(run, block):
        return None
    if not request.is_selected(block.name):
        restore_exports(run, block)
        return BlockChoice(block.type, find_selected_branches(request, block))
    known = state.steps.get(block.name)
    if known is not None:
        choice = known.result.choice
        return choice if isinstance(choice, BlockChoice) and known.result.error is None else "error"
    run.attempt = 1  # a run stops before the decision, or in a step: the steps of the branches have no earlier attempt
    if (kept := request.options.branches.get(block.name)) is not None:
        run.record.record_step(StepResult(block.name, "success", started_at=format_iso(clock.now()), choice=kept))
        return kept
    return await _decide(run, block, clock)


async def _decide(run: RunState, block: Block, clock: Clock) -> BlockChoice | Status:
    """Evaluate the conditions of *block* and record the decision; return `error` if they cannot be evaluated."""
    started, began = clock.now(), clock.monotonic()
    decided = StepResult(block.name, "success", started_at=format_iso(started))
    error: PdkernelError | None = None
    # parity[block-conditions]: nothing is retried, because the same exports give the same error again
    try:
        choice = await decide_branches(run, block)
    except PdkernelError as fault:
        if fault is run.record.write_error:
            raise
        choice, error = BlockChoice(block.type), fault
    shown = tuple(run.record.redactor.redact_value(_limit(each)) for each in choice.conditions)
    decided = replace(decided, duration_ms=(clock.monotonic() - began) * 1000, choice=replace(choice, conditions=shown))
    if error is None:
        run.record.record_step(decided)
        return choice
    message = run.record.redactor.redact_text(str(error))
    name = error.name if isinstance(error, StepError) else type(error).__name__
    record = ErrorRecord(error.code, name, message, block.name, getattr(error, "line", None))
    run.record.record_step(replace(decided, status="error", error=record), ends_run=True)
    return "error"


async def decide_branches(run: RunState, block: Block) -> BlockChoice:
    """
    Evaluate the conditions of *block* in order, up to the first that holds for an if or switch block.

    Raises:
        StepError: An expression throws, or takes too long.
    """
    exports = run.visible_exports(block.name)
    read = {"trigger": run.worker_setup.trigger, **exports}

    async def evaluate(template: JSON, key: str) -> Any:
        try:
            return await evaluate_templates(template, run.workers, exports, timeout_s=CONDITION_TIMEOUT_S)
        except TemplateError as error:
            what = "expression" if key == EXPRESSION_KEY else f"condition of {key}"
            source = " ".join(error.source.split())
            raise StepError(
                f"The {what} cannot be evaluated: {source} fails with {error.name}: {error.message}",
                name=error.name,
                line=block.locate(key, *error.path),
            ) from None

    value = UNDEFINED if block.type != "switch" else await evaluate(get_switch_template(block), EXPRESSION_KEY)
    judged: list[dict[str, Any]] = []
    taken: list[str] = []
    for branch in block.branches:
        template = get_condition_template(block, branch)
        evaluated = UNDEFINED if template is None else await evaluate(template, branch.name)
        found = judge_branch(block, branch, evaluated, value)
        if (source := _get_source(block, branch)) is not None:
            reads = read_operands(source, read)
            found |= {"source": " ".join(source.split()), **({"reads": reads} if reads else {})}
        judged.append(found)
        if found["holds"]:
            taken.append(branch.name)
            if block.type != "parallel":
                break
    return BlockChoice(block.type, tuple(taken), tuple(judged))


def _get_source(block: Block, branch: Branch) -> str | None:
    """Return the JavaScript of the condition of *branch*; None for rules, cases, always and never."""
    is_javascript = block.type != "switch" and branch.runs == "when" and isinstance(branch.condition, str)
    return branch.condition if is_javascript and isinstance(branch.condition, str) else None


def _limit(judged: Mapping[str, Any]) -> dict[str, Any]:
    """Return *judged* with large operands replaced by their sizes."""
    limited: dict[str, Any] = {}
    for key, value in judged.items():
        if key == "r" and isinstance(value, list):
            limited[key] = [_limit(each) for each in value]
        elif key in ("rules", "reads"):
            limited[key] = _limit(value)
        else:
            limited[key] = limit_prop((key, value))[1]
    return limited


def find_selected_branches(request: RunRequest, block: Block) -> tuple[str, ...]:
    """Return the branches of *block*, which the run does not decide, that contain steps which the run selects."""
    if request.is_only_recorded:
        return ()
    found = {
        branch
        for name in request.options.only_steps or ()
        for around, branch in request.workflow.branches_around(name)
        if around.name == block.name
    }
    return tuple(branch.name for branch in block.branches if branch.name in found)


def end_block(run: RunState, block: Block, choice: BlockChoice) -> None:
    """Set the exports of *block*, whose branches have ended, for the steps below."""
    workflow, earlier = run.request.workflow, run.exports.get(block.name)
    if earlier is not None and not choice.taken:  # nothing of it is selected
        return
    exports = collect_exports(workflow, block, choice, run.exports)
    if earlier is not None and choice.type == "parallel":  # only some of its branches are selected
        exports = {RETURN_VALUE: {**_as_mapping(earlier.get(RETURN_VALUE)), **_as_mapping(exports[RETURN_VALUE])}}
    run.exports[block.name] = exports


def _as_mapping(value: JSON) -> Mapping[str, JSON]:
    return value if isinstance(value, dict) else {}


def collect_exports(
    workflow: Workflow, block: Block, choice: BlockChoice, exports: Mapping[str, Mapping[str, JSON]]
) -> dict[str, JSON]:
    """Return the exports of *block* from the *exports* of the steps and blocks in it."""
    return build_block_exports(
        choice,
        {
            branch: (exports.get(entry.name) for entry in reversed(workflow.entries(f"{block.name}.{branch}")))
            for branch in choice.taken
        },
    )
