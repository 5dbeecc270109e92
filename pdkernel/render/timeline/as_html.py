"""The timeline as HTML, readable in light and dark themes, without its styles, and with a screen reader."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import format_count
from pdkernel.execution import Delivery, Execution, OutboundCall, Response
from pdkernel.language.shape import format_path
from pdkernel.model import JSON
from pdkernel.render import formatting, lookup
from pdkernel.render.apps import app_icon, format_app_name
from pdkernel.render.json_views import FormatPath, render_part, render_views
from pdkernel.render.markup import (
    BODY_STYLE,
    BORDER_STYLE,
    CONTAINER_STYLE,
    ERROR_MARGIN_STYLE,
    MUTED_STYLE,
    ROW_STYLE,
    WARNING_MARGIN_STYLE,
    Html,
    Tone,
    badge,
    breakable,
    code_block,
    collapsible,
    join,
    join_lines,
    multiline,
    muted,
    pill,
    tag,
)
from pdkernel.render.timeline import view_model
from pdkernel.render.timeline.view_model import NO_CONTEXT, Label, TimelineContext

_PREVIEW = 72
_FEW_LINES = 12
_LABEL_PX = 100
_MARKER_PX = 15
_LEVEL_PX, _MAX_LEVELS = 16, 8
"""Width of the arrow of a collapsible part, so that the columns line up."""
_CHARACTER_PX, _MAX_NAME_PX = 10, 240
"""Width of a character of a step's name, and of the widest column of names: longer names move their own row only."""
_SPACE = Html(" ")
_STOP_TITLE = "Stop the run: interrupt the kernel"
"""The title of the Stop button. Its element has no text: the Lab extension labels it, and without the extension it is not shown."""
_GROWING_STYLE = "flex:1 1 auto;min-width:0;overflow-wrap:break-word"
_STEP = f"{BORDER_STYLE};border-left:0;border-right:0;border-bottom:0;margin:0;padding:5px 0;list-style-type:none"


def render_html(execution: Execution, notes: TimelineContext = NO_CONTEXT) -> str:
    """Render the timeline of *execution* as HTML."""
    parts = [*_head(execution, notes), _steps(execution, notes)]
    if execution.sends:
        parts.append(_sends(execution.sends))
    if view_model.should_show_response(execution, notes):
        parts.append(_response(execution.response, refused=view_model.is_refused(execution)))
    return tag("div", Html("\n"), join_lines(parts), Html("\n"), style=CONTAINER_STYLE, class_="pd-view pd-timeline")


def _head(execution: Execution, notes: TimelineContext) -> list[Html]:
    label = formatting.EXECUTION_LABELS[execution.status]
    title = [
        tag("strong", execution.workflow, style="margin-right:8px"),
        pill(str(label), label.tone),
        muted(view_model.format_total_duration(execution, notes)),
        *([tag("code", class_="pd-stop", title=_STOP_TITLE)] if view_model.can_stop(execution, notes) else []),
    ]
    parts = [
        tag("div", *(_spaced(title)), style=f"{ROW_STYLE};font-size:110%"),
        tag("div", view_model.format_event_source(execution, notes)),
        tag("div", view_model.format_identity(execution)),
        tag("div", view_model.format_start(execution), style="opacity:0.75;margin-bottom:6px"),
    ]
    for decision in execution.decisions:
        note = multiline(decision.note, style="margin-left:24px") if decision.note else Html("")
        parts.append(tag("div", formatting.format_decision(decision), note, style="margin-bottom:6px"))
    if notes.note:
        parts.append(tag("div", notes.note, style=f"{WARNING_MARGIN_STYLE};margin-bottom:6px"))
    parts += [
        tag("div", tag("strong", "Warning: "), warning, style=f"{WARNING_MARGIN_STYLE};margin-bottom:6px")
        for warning in view_model.collect_warnings(execution, notes)
    ]
    if execution.error and view_model.belongs_to_no_row(execution.error, execution):
        parts.append(_error(view_model.build_error(execution.error, execution, notes)))
    failed = view_model.find_failed_lookup(execution)
    if failed is not None:
        parts.append(collapsible(Html("account lookup"), lookup.render_html(failed)))
    return parts


def _steps(execution: Execution, notes: TimelineContext) -> Html:
    rows = view_model.build_rows(execution, notes)
    name_px = min(
        _MAX_NAME_PX, max((_CHARACTER_PX * len(row.result.name) + _get_indent_px(row) for row in rows), default=0)
    )
    steps = [tag("li", _row(row, name_px), _details(row), style=_STEP) for row in rows]
    return tag("ol", join_lines(steps), style="margin:0;padding:0;list-style-type:none", class_="pd-steps")


def _row(row: view_model.TimelineStep, name_px: int) -> Html:
    parts = [
        tag("span", pill(str(row.label), row.label.tone), style="display:inline-block;min-width:100px"),
        tag("strong", breakable(row.result.name), style=_build_name_style(row, name_px)),
        *([tag("span", row.kind, style=f"{MUTED_STYLE};margin-right:8px;min-width:55px")] if row.kind else []),
        *(_mark(mark) for mark in row.badges),
        tag("span", row.summary, style="flex:1 1 200px;margin-right:8px") if row.summary else Html(""),
    ]
    if row.duration:
        taken = tag("span", row.duration, style="margin-right:8px;min-width:70px;text-align:right")
        bar = [] if row.result.duration_ms is None else [_SPACE, _bar(row)]
        parts.append(tag("span", taken, *bar, style="margin-left:auto;display:flex;align-items:center"))
    return tag("div", *_spaced([part for part in parts if part]), style=ROW_STYLE)


def _build_name_style(row: view_model.TimelineStep, name_px: int) -> str:
    indent = _get_indent_px(row)
    shift = f"margin-left:{indent}px;" if indent else ""
    return f"display:inline-block;{shift}margin-right:8px;min-width:{name_px - indent}px"


def _get_indent_px(row: view_model.TimelineStep) -> int:
    return _LEVEL_PX * min(row.level, _MAX_LEVELS)


def _mark(mark: str) -> Html:
    """Return a badge of a step. The Lab extension makes the mark of a stale step a button, which runs the stale steps."""
    if mark not in (view_model.STALE_MARK, view_model.EDITED_MARK):
        return badge(mark)
    return tag("span", pill(mark, "warn"), title="Run the stale steps again: %pdrun --stale", class_="pd-stale")


def _bar(row: view_model.TimelineStep) -> Html:
    start = min(99.0, row.bar_start * 100)
    width = max(1.0, min(100 - start, row.bar_width * 100))
    colour = "background-color:#0969da;background-color:var(--jp-brand-color1,#0969da)"
    filled = tag("span", style=f"display:block;height:6px;margin-left:{start:.1f}%;width:{width:.1f}%;{colour}")
    ground = "display:inline-block;width:120px;background-color:rgba(127,127,127,0.2)"
    return tag("span", filled, style=ground, aria_hidden="true")


def _details(row: view_model.TimelineStep) -> Html:
    parts = [_error(row.error)] if row.error else []
    parts += [_labelled(Label.ACTION, tag("span", row.result.source))] if row.result.source else []
    parts += [
        _labelled(Label.ACCOUNT, tag("span", app_icon(use.app), formatting.format_account(use)))
        for use in row.result.accounts
    ]
    if row.lookup is not None and row.result.accounts:
        parts.append(_collapsible(Label.LOOKUP, Html("how the account was found"), _lookup(row)))
    parts += [_labelled(Label.BRANCH, tag("span", condition, style=_GROWING_STYLE)) for condition in row.conditions]
    parts += [_value(Label.INPUT, name, value, None) for name, value in row.props]
    parts += [_value(Label.EXPORT, name, value, _export_path(row, name)) for name, value in row.exports]
    if row.hidden_exports:
        parts.append(_labelled(Label.EXPORT, muted(view_model.format_hidden_exports(row))))
    parts += [_labelled(Label.CALL, _call(call)) for call in row.result.requests]
    if row.logs:
        parts.append(_logs(row.logs))
    return tag("div", join_lines(parts), style=BODY_STYLE) if parts else Html("")


def _lookup(row: view_model.TimelineStep) -> Html:
    return lookup.render_html(row.lookup, step=row.result.name) if row.lookup else Html("")


def _labelled(label: str, content: Html) -> Html:
    return tag("div", _label(label), _SPACE, content, style="display:flex;align-items:baseline;overflow-wrap:anywhere")


def _collapsible(label: str, summary: Html, body: Html) -> Html:
    """Return a collapsible part with the columns of `_labelled`: a long summary wraps in its own column, beside the arrow."""
    columns = [_label(label, width=_LABEL_PX - _MARKER_PX), _SPACE, tag("span", summary, style=_GROWING_STYLE)]
    return collapsible(tag("span", *columns, style="display:inline-flex;align-items:baseline;max-width:92%"), body)


def _label(label: str, *, width: int = _LABEL_PX) -> Html:
    look = f"display:inline-block;flex:0 0 {width}px;min-width:{width}px;opacity:0.75;font-size:90%"
    return tag("span", label, style=look)


def _value(label: str, name: str, value: JSON, format_path: FormatPath | None) -> Html:
    """Return a prop or an export: in one line if it is short, else with a preview."""
    short = formatting.format_json_line(value)
    named = render_part(name, (), format_path)
    is_composite = isinstance(value, dict | list) and bool(value)
    if len(short) <= _PREVIEW and not is_composite:
        return _labelled(label, tag("span", named, _SPACE, render_part(short, (), format_path)))
    preview = tag("span", formatting.truncate_line(short, _PREVIEW), style="opacity:0.75;font-size:90%")
    if is_composite:
        whole = tag("div", render_views(value, format_path), style=f"margin-left:{_LABEL_PX}px")
    else:
        whole = code_block(formatting.format_json(value, max_lines=200, max_characters=8000))
    return _collapsible(label, join([named, _SPACE, preview]), whole)


def _export_path(row: view_model.TimelineStep, name: str) -> FormatPath:
    """Return the function that formats a path of an export in the language of the step below."""
    return lambda path: format_path(("steps", row.result.name, name, *path), row.reader)


def _call(call: OutboundCall) -> Html:
    app = f" with the {format_app_name(call.app)} account" if call.app else ""
    outcome = formatting.format_outcome(call)
    parts = [
        tag("code", f"{call.method} {call.url}"),
        pill(outcome, formatting.select_outcome_tone(call)) if outcome else Html(""),
        tag("span", f"{formatting.format_call_response(call)}{app}"),
    ]
    note = [tag("div", call.note)] if call.note else []
    return tag("span", *_spaced([part for part in parts if part]), *note, style=_GROWING_STYLE)


def _logs(logs: Sequence[view_model.LogBlock]) -> Html:
    kinds = {"stdout": "line of stdout", "stderr": "line of stderr", "note": "note"}
    counts = {label: sum(len(log.lines) for log in logs if log.label == label) for label in kinds}
    blocks = join_lines([_log(log) for log in logs])
    if sum(counts.values()) <= _FEW_LINES:
        return blocks
    summary = ", ".join(_counted(counts[label], noun) for label, noun in kinds.items() if counts[label])
    return _collapsible(Label.LOGS, join([summary]), blocks)


def _counted(number: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return f"{format_count(number, first)} {rest}".rstrip()


def _log(log: view_model.LogBlock) -> Html:
    shown = "\n".join(formatting.elide_middle(log.lines, head=50, tail=150))
    if log.label == "note":
        return _labelled(log.label, tag("span", shown, style=f"{_GROWING_STYLE};white-space:pre-wrap"))
    look = f"{_GROWING_STYLE};{WARNING_MARGIN_STYLE}" if log.label == "stderr" else _GROWING_STYLE
    return _labelled(
        log.label, code_block(formatting.truncate_text(shown, max_lines=1000, max_characters=20_000), style=look)
    )


def _error(error: view_model.ShownError) -> Html:
    parts = [
        tag("div", tag("strong", error.name), f" at {error.place}" if error.place else ""),
        multiline(error.message, style="overflow-wrap:break-word"),
    ]
    if error.stack:
        parts.append(collapsible(Html("stack"), code_block(error.stack), open_=len(error.stack) < 2000))
    return tag("div", join_lines(parts), style=f"{ERROR_MARGIN_STYLE};margin:4px 0", role="alert")


def _sends(sends: Sequence[Delivery]) -> Html:
    tones: dict[str, Tone] = {"waiting": "quiet", "sent": "good", "shown": "quiet", "failed": "bad"}
    shown = []
    for sent in sends:
        summary = join(
            [
                pill(sent.outcome, tones[sent.outcome]),
                _SPACE,
                tag("strong", sent.step),
                f" {formatting.format_delivery(sent)}",
            ]
        )
        payload = code_block(formatting.format_json(sent.payload, max_lines=200, max_characters=8000))
        shown.append(collapsible(summary, payload))
    return tag("div", tag("strong", f"{Label.AFTER_RUN.capitalize()}: "), join_lines(shown), style="margin-top:6px")


def _response(response: Response | None, *, refused: bool) -> Html:
    head = join(
        [tag("strong", f"{Label.RESPONSE.capitalize()}: "), formatting.format_response(response, refused=refused)]
    )
    if response is None:
        return tag("div", head, style="margin-top:6px")
    headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
    body = (
        response.body
        if isinstance(response.body, str)
        else formatting.format_json(response.body, max_lines=200, max_characters=8000)
    )
    block = code_block(
        formatting.truncate_text(f"{headers}\n\n{body}".lstrip("\n"), max_lines=240, max_characters=12_000)
    )
    return tag("div", head, block, style="margin-top:6px")


def _spaced(parts: Sequence[Html]) -> list[Html]:
    """Return *parts* with spaces between them, for output without styles."""
    return [piece for part in parts for piece in (part, _SPACE)][:-1]
