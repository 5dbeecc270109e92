"""The report on a move away from Pipedream as one HTML page, which opens without a kernel and loads nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pdkernel.annex.migration.migration_report import (
    COLUMNS,
    DELETION_DAY,
    STATE_LABELS,
    MigrationReport,
    MoveStep,
    WorkflowMigration,
    build_cells,
    build_total_cells,
    format_shared,
    format_summary,
    iter_groups,
)
from pdkernel.annex.migration.plan import MovePlan, render_table
from pdkernel.annex.migration.shadow import ShadowReport
from pdkernel.annex.proof.report import RecordProof
from pdkernel.render.markup import Html, inline_code, join, join_lines, pill, tag


def render_page(report: MigrationReport) -> str:
    """Render the report as one HTML page with inline styles, without scripts and without requests."""
    title = "Move from Pipedream"
    body = [
        tag("h1", title),
        tag("p", format_summary(report)),
        _html_table(report),
        tag("dl", *(each for name, meaning in COLUMNS.items() for each in (tag("dt", name), tag("dd", meaning)))),
        *_html_shared(report),
        tag("h2", "Order of the move"),
        tag("ol", *(_html_move_step(step) for step in report.order)),
        *_html_records(report),
        tag("h2", "Each workflow"),
        *(_html_workflow(row, number) for number, row in enumerate(report.workflows)),
        tag("p", f"pdkernel migrate report, {report.created_at}", class_="note"),
    ]
    return _build_page(title, body)


def render_record_page(proof: RecordProof, created_at: str) -> str:
    """Render one workflow compared with its recorded runs as one HTML page."""
    title = f"{proof.workflow}: here and at Pipedream"
    note = tag("p", f"pdkernel migrate report --records, {created_at}", class_="note")
    return _build_page(title, [tag("h1", title), proof.render_html(), note])


def render_shadow_page(report: ShadowReport, created_at: str) -> str:
    """Render what compared records have shown as one HTML page."""
    title = "Here and at Pipedream"
    note = tag("p", f"pdkernel migrate shadow, {created_at}", class_="note")
    return _build_page(title, [tag("h1", title), report.render_html(), note])


def render_plan_page(plan: MovePlan) -> str:
    """Render the plan of a move as one HTML page."""
    title = "Plan of the move from Pipedream"
    note = tag("p", f"pdkernel migrate plan, {plan.created_on.isoformat()}", class_="note")
    return _build_page(title, [tag("h1", title), render_table(plan), note])


def name_record_page(proof: RecordProof) -> str:
    """Return the name of the file of `render_record_page`, in the folder of the report's page."""
    return f"{proof.workflow_id}.html"


def _html_records(report: MigrationReport) -> list[Html]:
    if not report.records:
        return []
    entries = [
        tag("li", tag("a", proof.workflow, href=name_record_page(proof)), tag("p", " ".join(proof.summarize())))
        for proof in report.records
    ]
    return [tag("h2", "Compared with Pipedream"), tag("ul", *entries)]


def _build_page(title: str, body: list[Html]) -> str:
    head = Html(
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"{tag('title', title)}\n<style>{_STYLE}</style>"
    )
    page = tag("html", tag("head", head), tag("body", tag("main", join_lines(body))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def _html_table(report: MigrationReport) -> Html:
    heads = tag("tr", *(tag("th", name, scope="col", title=meaning) for name, meaning in COLUMNS.items()))
    rows = []
    for number, row in enumerate(report.workflows):
        name, state, *counts = build_cells(row)
        link = tag("a", name, href=f"#workflow-{number}")
        rows.append(
            tag(
                "tr",
                tag("th", link, scope="row"),
                tag("td", pill(state, STATE_LABELS[row.state][1])),
                *(tag("td", count, class_="count", data_label=label) for count, label in _labelled(counts)),
            )
        )
    name, _, *counts = build_total_cells(report)
    total = tag(
        "tr",
        tag("th", name, scope="row"),
        tag("td", ""),
        *(tag("td", count, class_="count", data_label=label) for count, label in _labelled(counts)),
    )
    return tag("table", tag("thead", heads), tag("tbody", join_lines(rows)), tag("tfoot", total))


def _labelled(counts: list[str]) -> Iterator[tuple[str, str]]:
    return zip(counts, list(COLUMNS)[2:], strict=True)


def _html_shared(report: MigrationReport) -> list[Html]:
    if not report.shared:
        return []
    entries = [tag("li", format_shared(each), _html_fix(each.fix, each.command)) for each in report.shared]
    return [tag("h2", f"Save before {DELETION_DAY}"), tag("ul", *entries)]


def _html_move_step(step: MoveStep) -> Html:
    parts = [tag("strong", inline_code(step.title)), tag("p", inline_code(step.reason))]
    if step.subjects:
        parts.append(tag("ul", *(tag("li", inline_code(subject)) for subject in step.subjects)))
    parts += [tag("pre", command) for command in step.commands]
    return tag("li", *parts)


def _html_workflow(row: WorkflowMigration, number: int) -> Html:
    label, tone = STATE_LABELS[row.state]
    parts = [tag("summary", tag("strong", row.name), " ", pill(label, tone)), tag("p", row.source, class_="note")]
    if row.ready:
        parts.append(tag("p", f"Runs here as it is: {', '.join(row.ready)}"))
    for heading, items in iter_groups(row):
        parts.append(tag("h3", heading))
        parts.append(
            tag("ul", *(tag("li", inline_code(item.message), _html_fix(item.fix, item.command)) for item in items))
        )
    return tag("details", *parts, id=f"workflow-{number}", open="open")


def _html_fix(fix: str, command: str) -> Html:
    return join(
        [*(tag("p", inline_code(line)) for line in fix.splitlines()), *([tag("pre", command)] if command else [])]
    )


_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0; background: Canvas; color: CanvasText; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1rem; margin-bottom: .25rem; }
a { color: LinkText; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .5rem; border-bottom: 1px solid rgba(127,127,127,.35); vertical-align: top; }
td.count, thead th:nth-child(n+3) { text-align: right; }
tfoot th, tfoot td { font-weight: 700; border-top: 2px solid rgba(127,127,127,.6); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .75rem; font-size: .9rem; }
dt { font-weight: 600; } dd { margin: 0; opacity: .85; }
ul, ol { padding-left: 1.25rem; } li { margin: .35rem 0; } li p { margin: .1rem 0; opacity: .85; }
pre, code { font-family: ui-monospace, monospace; font-size: .9em; background: rgba(127,127,127,.12); border-radius: 4px; }
pre { margin: .2rem 0; padding: .3rem .5rem; white-space: pre-wrap; } code { padding: 0 .2em; }
details { border: 1px solid rgba(127,127,127,.35); border-radius: 6px; padding: .5rem .75rem; margin: .5rem 0; }
summary { cursor: pointer; } .note { opacity: .8; font-size: .9rem; }
@media (max-width: 40rem) {
  thead { display: none; }
  table, tbody, tfoot, tr, th, td { display: block; border: 0; }
  tr { border-bottom: 1px solid rgba(127,127,127,.35); padding: .35rem 0; }
  td.count { display: inline-block; text-align: left; padding: 0 .75rem 0 .5rem; }
  td.count::before { content: attr(data-label) " "; opacity: .8; }
}
@media print { details { break-inside: avoid; } }
"""
