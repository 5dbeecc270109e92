"""The timeline as aligned text for a terminal: 100 columns if possible, without colors."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from pdkernel.execution import Delivery, Execution, OutboundCall, Response
from pdkernel.model import JSON
from pdkernel.render import formatting, lookup
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import escape_control_characters
from pdkernel.render.timeline import view_model
from pdkernel.render.timeline.view_model import NO_CONTEXT, Label, TimelineContext

_BAR = 20
_INDENT = " " * 6
_LABEL = 9
_MAX_LEVELS = 8


def render_text(execution: Execution, notes: TimelineContext = NO_CONTEXT) -> str:
    """Render the timeline of *execution* as text."""
    return escape_control_characters("\n".join(_lines(execution, notes)) + "\n")


def _lines(execution: Execution, notes: TimelineContext) -> Iterator[str]:
    label = formatting.EXECUTION_LABELS[execution.status]
    time = view_model.format_total_duration(execution, notes)
    yield f"{formatting.truncate_line(execution.workflow, 70)}: {label}{f', {time}' if time else ''}"
    yield f"  {formatting.truncate_line(view_model.format_event_source(execution, notes), 96)}"
    yield f"  {formatting.truncate_line(view_model.format_identity(execution), 96)}"
    yield f"  {view_model.format_start(execution)}"
    for decision in execution.decisions:
        note = f": {formatting.truncate_line(decision.note, 400)}" if decision.note else ""
        yield from _wrapped(f"{formatting.format_decision(decision)}{note}", "  ")
    for sentence in [*([notes.note] if notes.note else []), *view_model.collect_warnings(execution, notes)]:
        yield from _wrapped(sentence, "  ! ")
    if execution.error and view_model.belongs_to_no_row(execution.error, execution):
        yield ""
        yield from _error(view_model.build_error(execution.error, execution, notes), indent="  ")
    failed = view_model.find_failed_lookup(execution)
    if failed is not None:
        yield ""
        yield from (f"  {line}" for line in lookup.render_text(failed).splitlines())
    yield ""
    yield from _steps(execution, notes)
    if execution.sends:
        yield ""
        yield from _sends(execution.sends)
    if view_model.should_show_response(execution, notes):
        yield ""
        yield from _response(execution.response, refused=view_model.is_refused(execution))


def _steps(execution: Execution, notes: TimelineContext) -> Iterator[str]:
    rows = view_model.build_rows(execution, notes)
    shown_names = [f"{'  ' * min(row.level, _MAX_LEVELS)}{row.result.name}" for row in rows]
    names = max(map(len, shown_names), default=0)
    kinds = max((len(row.kind) for row in rows), default=0)
    for row, name in zip(rows, shown_names, strict=True):
        head = f"  {row.label!s:<10}  {name:<{names}}  {row.kind:<{kinds}}".rstrip()
        if row.duration:
            width = 16 + names + kinds
            bar = "" if row.result.duration_ms is None else f"  {_bar(row)}"
            head = f"{head:<{width}} {row.duration:>9}{bar}"
        yield "  ".join([head, *(f"[{mark}]" for mark in row.badges)]).rstrip()
        yield from _details(row, explain=notes.explain_lookup)


def _bar(row: view_model.TimelineStep) -> str:
    start = min(_BAR - 1, int(row.bar_start * _BAR))
    length = max(1, min(_BAR - start, round(row.bar_width * _BAR)))
    return f"|{' ' * start}{'█' * length}".ljust(_BAR + 1) + "|"


def _details(row: view_model.TimelineStep, *, explain: bool) -> Iterator[str]:
    if row.summary:
        yield from _labelled("summary", [formatting.truncate_line(row.summary, formatting.TEXT_COLUMNS - 16)])
    if row.result.source:
        yield from _labelled(
            Label.ACTION, textwrap.wrap(row.result.source, formatting.TEXT_COLUMNS - len(_INDENT) - _LABEL)
        )
    for use in row.result.accounts:
        yield from _labelled(Label.ACCOUNT, [formatting.format_account(use)])
    if explain and row.lookup is not None and row.result.accounts:
        yield from _labelled(Label.LOOKUP, lookup.render_text(row.lookup, step=row.result.name).splitlines())
    for condition in row.conditions:
        width = formatting.TEXT_COLUMNS - len(_INDENT) - _LABEL
        yield from _labelled(
            Label.BRANCH, textwrap.wrap(escape_control_characters(condition), width, subsequent_indent="  ")
        )
    for name, value in row.props:
        yield from _labelled(Label.INPUT, _value(name, value))
    for name, value in row.exports:
        yield from _labelled(Label.EXPORT, _value(name, value))
    if row.hidden_exports:
        yield from _labelled(Label.EXPORT, [view_model.format_hidden_exports(row)])
    for call in row.result.requests:
        yield from _labelled(Label.CALL, _call(call))
    for log in row.logs:
        yield from _labelled(log.label, _log(log))
    if row.error:
        yield from _error(row.error, indent=_INDENT)


def _labelled(label: str, content: list[str]) -> Iterator[str]:
    for number, line in enumerate(content):
        yield f"{_INDENT}{label if number == 0 else '':<{_LABEL}}{line}".rstrip()


def _value(name: str, value: JSON) -> list[str]:
    short = f"{name}: {formatting.format_json_line(value)}"
    if len(short) <= formatting.TEXT_COLUMNS - len(_INDENT) - _LABEL:
        return [short]
    return f"{name}: {formatting.format_json(value, max_lines=16, max_characters=1200)}".split("\n")


def _call(call: OutboundCall) -> list[str]:
    width = formatting.TEXT_COLUMNS - len(_INDENT) - _LABEL
    account = f", with the {format_app_name(call.app)} account" if call.app else ""
    answer = formatting.format_call_response(call) + account
    outcome = formatting.format_outcome(call)
    lines = [f"{outcome} ({answer})" if outcome else f"-> {answer}", call.note or ""]
    return [
        formatting.truncate_line(f"{call.method} {call.url}", width),
        *(piece for line in lines for piece in textwrap.wrap(escape_control_characters(line), width)),
    ]


def _log(log: view_model.LogBlock) -> list[str]:
    shown = formatting.elide_middle(log.lines)
    if log.label != "note":
        return [f"| {line}" for line in shown]
    width = formatting.TEXT_COLUMNS - len(_INDENT) - _LABEL
    return [
        piece
        for line in shown
        for piece in textwrap.wrap(escape_control_characters(line), width, break_long_words=False)
    ]


def _error(error: view_model.ShownError, *, indent: str) -> Iterator[str]:
    yield f"{indent}{formatting.truncate_line(error.name, 60)}{f' at {error.place}' if error.place else ''}:"
    for line in error.message.split("\n"):
        yield from _wrapped(line, f"{indent}  ")
    if error.stack:
        yield ""
        for line in formatting.elide_middle(error.stack.split("\n"), head=15, tail=15):
            yield f"{indent}    {line}".rstrip()


def _sends(sends: Sequence[Delivery]) -> Iterator[str]:
    yield f"  {Label.AFTER_RUN}:"
    for sent in sends:
        yield from _wrapped(f"{sent.outcome:<6} {sent.step}: {formatting.format_delivery(sent)}", "    ")
        text = formatting.format_json_line(sent.payload)
        if len(text) > formatting.TEXT_COLUMNS - 6:
            text = formatting.format_json(sent.payload, max_lines=8, max_characters=800)
        for line in text.split("\n"):
            yield f"      {line}".rstrip()


def _response(response: Response | None, *, refused: bool) -> Iterator[str]:
    yield from _wrapped(f"{Label.RESPONSE}: {formatting.format_response(response, refused=refused)}", "  ")
    if response is not None:
        for name, value in response.headers.items():
            yield f"    {formatting.truncate_line(f'{name}: {value}', 96)}"
        body = response.body if isinstance(response.body, str) else formatting.format_json(response.body, max_lines=16)
        for line in formatting.truncate_text(body, max_lines=20, max_characters=1200).split("\n"):
            yield f"    {line}".rstrip()


def _wrapped(sentence: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(
        escape_control_characters(sentence),
        formatting.TEXT_COLUMNS,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
    )
