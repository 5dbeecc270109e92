"""
Checks of a workflow before a run: the order of steps, entry points, packages and expressions.

A check reports all problems at once. In a synced workflow, a stale reference is a warning, since the workflow ran on
the platform.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from pdkernel.common.encode import LONE_SURROGATE
from pdkernel.errors import (
    DefinitionError,
    DirectiveError,
    EntryPointError,
    ExpressionError,
    PackageNameError,
    StepOrderError,
    UnknownStepError,
    UnsupportedError,
    did_you_mean,
)
from pdkernel.language.analysis import go_code, node_code, old_code, python_code
from pdkernel.language.analysis.imported_files import find_missing_files
from pdkernel.language.analysis.python_requirements import find_unreadable_requirements
from pdkernel.language.analysis.source_locations import describe_place, raise_combined
from pdkernel.language.analysis.step_references import build_condition_step, find_step_references, needs_step
from pdkernel.language.expression import RULE_FILTER, RULE_FILTER_PROP, RuleError, RuleFilter, find_condition_errors
from pdkernel.model import RESERVED_STEP_NAMES, Block, Entry, Step, Workflow

_MAX_LISTED = 20
"""Names of earlier steps in a message."""


def check_workflow(workflow: Workflow, *, to_run: bool = True, left_out: Collection[str] = ()) -> None:
    """
    Check the order and scope of steps and blocks, entry points, conditions and expressions of *workflow*.

    Args:
        workflow: The workflow.
        to_run: False for an export, which accepts any code and expressions of a synced workflow.
        left_out: Blocks whose cells and conditions are not checked, because a run does not evaluate them.

    Raises:
        DefinitionError: A single problem in its own class; for several, the class of the first with all messages.
    """
    check_readable(workflow, left_out)
    lenient = not to_run and is_synced(workflow)
    problems: list[DefinitionError] = []
    for entry in workflow.all_entries:
        if isinstance(entry, Block):
            problems += [] if entry.name in left_out else _condition_problems(workflow, entry)
        elif not entry.disabled:
            problems += [] if lenient else _entry_point_problems(entry)
            problems += _order_problems(workflow, entry, lenient=lenient)
    raise_combined(problems)


def check_block(workflow: Workflow, name: str) -> None:
    """
    Check the cell, the conditions and the place of the block *name* of *workflow*.

    Raises:
        DefinitionError: As for `check_workflow`; for a cell that cannot be read, without its place.
    """
    block = workflow.block(name)
    if block.problem is not None:
        raise DirectiveError(block.problem[0], step=name, line=block.problem[1])
    raise_combined(_condition_problems(workflow, block))


def check_readable(workflow: Workflow, left_out: Collection[str] = ()) -> None:
    """
    Check that the header cell and the cells of all blocks, without those *left_out*, and enabled steps of *workflow* can be read.

    Raises:
        DirectiveError: Cells cannot be read.
    """
    raise_combined(
        [
            *_header_problems(workflow),
            *(
                DirectiveError(
                    f"In {_describe_unreadable(entry)}: {entry.problem[0]}", step=entry.name, line=entry.problem[1]
                )
                for entry in workflow.all_entries
                if entry.problem is not None and entry.name not in left_out and _is_needed(workflow, entry)
            ),
        ]
    )


def _is_needed(workflow: Workflow, entry: Entry) -> bool:
    """Return whether *entry* is an enabled step, or a block with one in it; an empty block may lack its steps because of its problem."""
    if isinstance(entry, Step):
        return not entry.disabled
    inner = [step for step in workflow.steps if any(block is entry for block, _ in workflow.branches_around(step.name))]
    return not inner or any(not step.disabled for step in inner)


def check_header(workflow: Workflow) -> None:
    """
    Check that the header cell of *workflow* can be read.

    Raises:
        DirectiveError: The header cell has an error.
    """
    raise_combined(_header_problems(workflow))


def _header_problems(workflow: Workflow) -> list[DefinitionError]:
    return [DirectiveError(workflow.problem[0])] if workflow.problem else []


def find_blocked_steps(workflow: Workflow, unreadable: Collection[str]) -> dict[str, tuple[str, int | None]]:
    """
    Return the steps and blocks of *workflow* that cannot run, each with the reason and the line of its cell.

    Args:
        workflow: The workflow.
        unreadable: The steps and blocks whose cells cannot be read and which have no exports.

    Returns:
        These steps and blocks, what is in such a block, and those that need their exports. What needs a block with such a step in
        it is among them, and the block is not: it may run another branch.
    """
    found: dict[str, tuple[str, int | None]] = {}
    causes: dict[str, str] = {}
    for entry in workflow.all_entries:
        around = next((block.name for block, _ in workflow.branches_around(entry.name) if block.name in found), None)
        if entry.name in unreadable and entry.problem is not None:
            found[entry.name], causes[entry.name] = entry.problem, _describe_unreadable(entry)
        elif around is not None:
            causes[entry.name] = cause = causes[around]
            found[entry.name] = (f"{entry.name} did not run, because {cause} cannot be read.\nCorrect that cell.", None)
        elif (needed := _find_needed(workflow, entry, causes)) is not None:
            causes[entry.name] = cause = causes[needed]
            what = f"{entry.name} did not run, because it needs steps.{needed}, and {cause} cannot be read."
            with suppress(ExpressionError):  # the checks before a run report it
                found[entry.name] = (f"{what}\nCorrect that cell.", find_step_references(entry).get(needed))
        if entry.name in found:
            for block, _ in workflow.branches_around(entry.name):
                causes.setdefault(block.name, causes[entry.name])
    return found


def _find_needed(workflow: Workflow, entry: Entry, causes: Collection[str]) -> str | None:
    """Return the first of *causes* whose exports *entry* may read, or None."""
    if isinstance(entry, Step) and entry.disabled:
        return None
    reader = build_condition_step(entry) if isinstance(entry, Block) else entry
    return next((name for name in causes if workflow.sees(entry.name, name) and needs_step(reader, name)), None)


def _describe_unreadable(entry: Entry) -> str:
    return describe_place(entry, entry.problem[1] if entry.problem else None).strip(" ()") or f"step {entry.name}"


def check_import_complete(workflow: Workflow) -> None:
    """
    Check that the import of *workflow* was complete.

    Raises:
        EntryPointError: The code of an enabled step was missing.
        NotebookError: A file that an enabled step imports by a relative path was missing.
        UnsupportedError: The workflow has entries that are not supported steps, blocks, a Filter step whose rules cannot be
            evaluated, or a name that is not text.
    """
    if LONE_SURROGATE.search(workflow.name):
        raise UnsupportedError(
            f"The workflow's name {workflow.name[:60]!r} is not text: it holds half a surrogate pair, or a byte that is not UTF-8.",
            fix="Give the workflow, or its file or folder, another name.",
        )
    problems: list[DefinitionError] = [
        EntryPointError(
            f"Step {step.name}{describe_place(step, None)} has no code: its entry file was missing in the imported folder.",
            fix="Write the code into its cell, or disable the step.",
            step=step.name,
            line=step.line_offset + 1,
        )
        for step in _enabled(workflow)
        if step.is_code_missing
    ]
    problems += [problem for step in _enabled(workflow) for problem in find_missing_files(step)]
    problems += [
        UnsupportedError(
            f"Step {step.name}{describe_place(step, None)} {problem}.",
            fix="Change the rule, or write the step as code.",
            step=step.name,
        )
        for step in _enabled(workflow)
        if (problem := find_rule_problem(step)) is not None
    ]
    problems += [
        UnsupportedError(
            f"{kept.name} {kept.unsupported_reason}.",
            fix="The entry is stored for export. Remove it to run the other steps."
            if kept.path is None
            else "Write it as a block or as code, and delete its cell. Steps that belong to it are disabled until you enable them.",
        )
        for kept in workflow.unsupported_entries
    ]
    raise_combined(problems)


def find_rule_problem(step: Step) -> str | None:
    """Return why the rules of *step*, the builder's Filter step, cannot be evaluated, as the rest of a sentence; None for any other step."""
    if step.uses != RULE_FILTER:
        return None
    try:
        RuleFilter.parse(step.props.get(RULE_FILTER_PROP))
    except RuleError as fault:
        return str(fault)
    return None


def check_packages(workflow: Workflow) -> None:
    """
    Check that steps require packages by name, and not by a path, a URL or a file.

    Raises:
        PackageNameError: A step requires a package in another way; the message names the step and the line.
    """
    raise_combined([problem for step in _enabled(workflow) if not step.uses for problem in _package_problems(step)])


def check_step_order(workflow: Workflow) -> None:
    """
    Check that every step and condition reads steps and blocks only whose exports it sees, and that conditions can be evaluated.

    Raises:
        StepOrderError: A step reads itself, a later step, or a step of another branch.
        UnknownStepError: A step reads a step that does not exist.
        ExpressionError: An expression of a prop or a condition is invalid.
    """
    problems: list[DefinitionError] = []
    for entry in _readers(workflow):
        if isinstance(entry, Block):
            problems += _condition_problems(workflow, entry)
        else:
            problems += _order_problems(workflow, entry)
    raise_combined(problems)


def find_reference_errors(workflow: Workflow) -> tuple[tuple[DefinitionError, str | None], ...]:
    """
    References of enabled steps and of blocks to exports that they do not see, also in a synced workflow.

    Returns:
        Each error with the name that the step reads; None for an expression that cannot be read.
    """
    problems: list[tuple[DefinitionError, str | None]] = []
    for entry in _readers(workflow):
        if isinstance(entry, Block):
            problems += [(error, None) for error in _iter_condition_errors(entry)]
        try:
            problems += _iter_reference_errors(workflow, entry)
        except ExpressionError as error:
            problems.append((error, None))
    return tuple(problems)


def find_order_warnings(workflow: Workflow) -> tuple[str, ...]:
    """For a synced workflow, a message for each reference to a step that is missing or comes later."""
    if not is_synced(workflow):
        return ()
    # parity[references]: the platform does not check references when it syncs; real workflows have stale ones.
    return tuple(fault.message for entry in _readers(workflow) for fault, _ in _iter_reference_errors(workflow, entry))


def is_synced(workflow: Workflow) -> bool:
    """Return whether the workflow was read from a synced folder."""
    return "schema" in workflow.extra


def _enabled(workflow: Workflow) -> Iterator[Step]:
    return (step for step in workflow.steps if not step.disabled)


def _readers(workflow: Workflow) -> Iterator[Entry]:
    """Yield the blocks and the enabled steps in the order of their cells."""
    return (entry for entry in workflow.all_entries if isinstance(entry, Block) or not entry.disabled)


def _condition_problems(workflow: Workflow, block: Block) -> list[DefinitionError]:
    """Return the conditions of *block* that cannot be evaluated, and the exports that the others read and do not see."""
    if block.problem is not None:
        return []  # `check_readable` reports it
    return [*_iter_condition_errors(block), *_order_problems(workflow, block)]


def _iter_condition_errors(block: Block) -> Iterator[DefinitionError]:
    for error in find_condition_errors(block):
        line = block.locate(*error.path)
        message = f"Block {block.name}{describe_place(block, line)}: {error.message}"
        yield ExpressionError(message, fix=error.fix, step=block.name, line=line, path=error.path)


def _order_problems(workflow: Workflow, entry: Entry, *, lenient: bool = False) -> list[DefinitionError]:
    try:
        misplaced = list(_iter_reference_errors(workflow, entry))
    except ExpressionError as error:
        return [] if lenient else [error]
    if is_synced(workflow) and misplaced:
        inner = {each.name for each in workflow.all_entries if each.inside is not None}
        return [error for error, name in misplaced if name in inner]
    return [error for error, _ in misplaced]


def _iter_reference_errors(workflow: Workflow, entry: Entry) -> Iterator[tuple[DefinitionError, str]]:
    """Yield each error with the name that the step or block reads."""
    for name, line in find_step_references(entry).items():
        if name not in RESERVED_STEP_NAMES and not workflow.sees(entry.name, name):
            what, fix = _explain_unseen(workflow, entry, name)
            kind = "Block" if isinstance(entry, Block) else "Step"
            message = f"{kind} {entry.name}{describe_place(entry, line)} reads steps.{name}, {what}"
            is_known = workflow.position(name) is not None or any(block.name == name for block in workflow.blocks)
            error_class = StepOrderError if is_known else UnknownStepError
            yield error_class(message, fix=fix, step=entry.name, line=line), name


def _explain_unseen(workflow: Workflow, entry: Entry, name: str) -> tuple[str, str]:
    """Return why *entry* does not see the exports of *name*, as the end of a sentence, and what to read instead."""
    if name == entry.name:
        return "its own exports, which do not exist before it ends.", "Read an earlier step."
    order = {each.name: place for place, each in enumerate(workflow.all_entries)}
    if name not in order:
        above = sorted(workflow.visible_names(entry.name)[-_MAX_LISTED:])
        fix = did_you_mean(name, above, lists_all=False) or f"Read an earlier step: {', '.join(above) or 'none'}."
        return "and the workflow has no such step.", fix
    around = {block.name for block, _ in workflow.branches_around(entry.name)}
    if name in around:
        return "the block around it, whose exports do not exist before it ends.", "Read an earlier step."
    if order[name] > order[entry.name]:
        return "which comes later and has not run yet.", f"Move {name} above {entry.name}."
    for block, branch in workflow.branches_around(name):
        if workflow.sees(entry.name, block.name):
            key = f".{branch}" if block.type == "parallel" else ""
            what = f"a step of the branch {branch} of {block.name}, which does not run for every event."
            if block.type == "parallel":
                what = f"a step of the branch {branch} of {block.name}, whose exports end with the block."
            return what, f"Read the exports of the branch's last step: steps.{block.name}.$return_value{key}"
        if block.name in around:
            return (
                f"a step of {block.name}.{branch}, another branch of the same block.",
                f"Read a step above {block.name}, or move {name} above it.",
            )
    raise AssertionError("an earlier entry is seen, or in a branch")


def _package_problems(step: Step) -> Iterator[PackageNameError]:
    faults: Iterable[tuple[str, int]] = ()
    fix = ""
    if step.language == "node":
        faults = ((f"cannot import its package: {why}", line) for why, line in node_code.import_faults(step.source))
        fix = 'Write import x from "NAME", "NAME@1.2.3", "NAME@^1" or "@SCOPE/NAME".'
    elif step.language == "python":
        faults = (
            (f"has `# pipedream add-package {unreadable.words}`, which does not name a package", unreadable.line)
            for unreadable in find_unreadable_requirements(step.source)
        )
        fix = "Write # pipedream add-package NAME or NAME==VERSION."
    for why, line in faults:
        yield PackageNameError(
            f"Step {step.name}{describe_place(step, line + step.line_offset)} {why}.",
            fix=fix,
            step=step.name,
            line=line + step.line_offset,
        )


def format_instead(step: Step, uses: Sequence[old_code.OldUse]) -> str:
    """Return what to write instead of *uses* of the platform's first version in *step*, a line for each, as lines of its cell or file."""
    return "Write instead:\n" + old_code.format_old_uses(
        [replace(use, line=use.line + step.line_offset) for use in uses]
    )


def _entry_point_problems(step: Step) -> Iterator[EntryPointError]:
    if step.uses or step.is_code_missing:  # the engine refuses missing code; an export needs no code
        return
    line, fix = 1, ""
    old = old_code.find_old_uses(step.source) if step.language == "node" else ()
    if old and (old_code.has_old_function(step.source) or not node_code.has_entry_point(step.source)):
        yield EntryPointError(
            f"Step {step.name}{describe_place(step, old[0].line + step.line_offset)} is written for {old_code.OLD_VERSION}: it uses "
            f"{', '.join(use.name for use in old)}.",
            fix=f"{format_instead(step, old)}\nTo let pdkernel rewrite a synced folder: pdkernel import FOLDER --to NOTEBOOK --modernize",
            step=step.name,
            line=old[0].line + step.line_offset,
        )
        return
    if step.language == "python" and not python_code.has_entry_point(step.source):
        what, template = "no `def handler(pd)` at its top level", python_code.ENTRY_POINT_TEMPLATE
    elif step.language == "node" and not node_code.has_entry_point(step.source):
        what, template = "no default export", node_code.ENTRY_POINT_TEMPLATE
        if (found := node_code.find_unexported_component(step.source)) is not None:
            line, fix = found, "Write `export default` before `defineComponent`."
    elif step.language == "go" and not go_code.has_entry_point(step.source):
        what, template = "no `func main()` in a `package main`", go_code.ENTRY_POINT_TEMPLATE
    else:
        return
    yield EntryPointError(
        f"Step {step.name}{describe_place(step, None)} has {what}.",
        fix=fix or f"Write\n{template}",
        step=step.name,
        line=step.line_offset + line,
    )
