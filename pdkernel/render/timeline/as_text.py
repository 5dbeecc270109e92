"""The timeline for a terminal: aligned, at most a hundred columns where that is possible, no colours."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence

from pdkernel.execution import Delivery, ErrorRecord, Execution, OutsideCall, Response
from pdkernel.model import JSON
from pdkernel.render import lookup, words
from pdkernel.render.markup import printable
from pdkernel.render.timeline import view

_BAR = 20
_INDENT = " " * 6
_LABEL = 9


def text(
    execution: Execution,
    *,
    stale: Collection[str] = (),
    pinned: Collection[str] = (),
    running: str | None = None,
    languages: Mapping[str, view.Kind] | None = None,
    event_name: str | None = None,
    responds: bool = True,
    warnings: Sequence[str] = (),
    note: str | None = None,
    explain: bool = False,
) -> str:
    """The timeline of *execution* as text; the other arguments are those of `view.Notes`."""
    notes = view.Notes(stale, pinned, running, languages or {}, event_name, responds, warnings, note, explain)
    return printable("\n".join(_lines(execution, notes)) + "\n")


def _lines(execution: Execution, notes: view.Notes) -> Iterator[str]:
    label = words.EXECUTION[execution.status]
    time = view.took(execution)
    yield f"{words.clipped(execution.workflow, 70)}: {label}{f', {time}' if time else ''}"
    yield f"  {words.clipped(view.source(execution, notes), 96)}"
    yield f"  {words.clipped(view.identity(execution), 96)}"
    yield f"  {view.ran_when(execution)}"
    for sentence in [*([notes.note] if notes.note else []), *view.warnings(execution, notes)]:
        yield from _wrapped(sentence, "  ! ")
    if execution.error and execution.error.step is None:
        yield ""
        yield from _error(execution.error, indent="  ")
    failed = view.failed_lookup(execution)
    if failed is not None:
        yield ""
        yield from (f"  {line}" for line in lookup.text(failed).splitlines())
    yield ""
    yield from _steps(execution, notes)
    if execution.sends:
        yield ""
        yield from _sends(execution.sends)
    if view.shows_response(execution, notes):
        yield ""
        yield from _response(execution.response, refused=view.is_refused(execution))


def _steps(execution: Execution, notes: view.Notes) -> Iterator[str]:
    rows = view.rows(execution, notes)
    names = max((len(row.result.name) for row in rows), default=0)
    languages = max((len(row.language) for row in rows), default=0)
    for row in rows:
        head = f"  {row.label!s:<10}  {row.result.name:<{names}}  {row.language:<{languages}}".rstrip()
        if row.duration:
            width = 16 + names + languages
            head = f"{head:<{width}} {row.duration:>9}  {_bar(row)}"
        yield "  ".join([head, *(f"[{mark}]" for mark in row.marks)]).rstrip()
        yield from _details(row, explain=notes.explain)


def _bar(row: view.StepRow) -> str:
    start = min(_BAR - 1, int(row.start * _BAR))
    length = max(1, min(_BAR - start, round(row.share * _BAR)))
    return f"|{' ' * start}{'█' * length}".ljust(_BAR + 1) + "|"


def _details(row: view.StepRow, *, explain: bool) -> Iterator[str]:
    if row.summary:
        yield from _labelled("summary", [words.clipped(row.summary, words.WIDTH - 16)])
    if row.result.source:
        yield from _labelled("action", textwrap.wrap(row.result.source, words.WIDTH - len(_INDENT) - _LABEL))
    for use in row.result.accounts:
        yield from _labelled("account", [words.account(use)])
    if explain and row.lookup is not None and row.result.accounts:
        yield from _labelled("look-up", lookup.text(row.lookup, step=row.result.name).splitlines())
    for name, value in row.exports:
        yield from _labelled("export", _export(name, value))
    for call in row.result.requests:
        yield from _labelled("call", _call(call))
    for log in row.logs:
        yield from _labelled(log.label, _log(log))
    if row.result.error:
        yield from _error(row.result.error, indent=_INDENT)


def _labelled(label: str, content: list[str]) -> Iterator[str]:
    for number, line in enumerate(content):
        yield f"{_INDENT}{label if number == 0 else '':<{_LABEL}}{line}".rstrip()


def _export(name: str, value: JSON) -> list[str]:
    short = f"{name}: {words.one_line(value)}"
    if len(short) <= words.WIDTH - len(_INDENT) - _LABEL:
        return [short]
    return f"{name}: {words.pretty(value, max_lines=16, max_characters=1200)}".split("\n")


def _call(call: OutsideCall) -> list[str]:
    app = f", with the {call.app} account" if call.app else ""
    content = [
        words.clipped(f"{call.method} {call.url}", words.WIDTH - len(_INDENT) - _LABEL),
        f"-> {words.answer(call)}{app}",
    ]
    said = ": ".join(part for part in (words.outcome(call), call.note or "") if part)
    return [*content, *textwrap.wrap(printable(said), words.WIDTH - len(_INDENT) - _LABEL)]


def _log(log: view.Printed) -> list[str]:
    shown = words.middle_left_out(log.lines)
    if log.label != "note":
        return [f"| {line}" for line in shown]
    width = words.WIDTH - len(_INDENT) - _LABEL
    return [piece for line in shown for piece in textwrap.wrap(printable(line), width, break_long_words=False)]


def _error(error: ErrorRecord, *, indent: str) -> Iterator[str]:
    where = words.place(error)
    yield f"{indent}{words.clipped(error.name, 60)}{f' at {where}' if where else ''}:"
    for line in error.message.split("\n"):
        yield from _wrapped(line, f"{indent}  ")
    if error.stack:
        yield ""
        for line in words.middle_left_out(error.stack.strip("\n").split("\n"), head=15, tail=15):
            yield f"{indent}    {line}".rstrip()


def _sends(sends: Sequence[Delivery]) -> Iterator[str]:
    yield "  after the run:"
    for sent in sends:
        yield from _wrapped(f"{sent.outcome:<6} {sent.step}: {words.delivery(sent)}", "    ")
        text = words.one_line(sent.payload)
        if len(text) > words.WIDTH - 6:
            text = words.pretty(sent.payload, max_lines=8, max_characters=800)
        for line in text.split("\n"):
            yield f"      {line}".rstrip()


def _response(response: Response | None, *, refused: bool) -> Iterator[str]:
    yield f"  response: {words.response(response, refused=refused)}"
    if response is not None:
        for name, value in response.headers.items():
            yield f"    {words.clipped(f'{name}: {value}', 96)}"
        body = response.body if isinstance(response.body, str) else words.pretty(response.body, max_lines=16)
        for line in words.shortened(body, max_lines=20, max_characters=1200).split("\n"):
            yield f"    {line}".rstrip()


def _wrapped(sentence: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(
        printable(sentence),
        words.WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_long_words=False,
    )
