"""View of an export: each file with its changes, findings, and a checklist of manual work."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.errors import format_count
from pdkernel.files.definition.checklist import CHECKLIST_HEADING
from pdkernel.files.definition.folder_write import FileChange, FileState
from pdkernel.files.definition.lint import Finding
from pdkernel.render.markup import (
    CODE_STYLE,
    CONTAINER_STYLE,
    Html,
    RichOutput,
    Tone,
    collapsible,
    copyable,
    escape_control_characters,
    inline_code,
    join,
    join_lines,
    pill,
    tag,
)

MAX_DIFF_LINES = 300
_FINDINGS_HEADING = "Check before a deployment:"
_SERVE_NOTES_HEADING = "Before you serve the folder:"
_SERVE_HEADING = "To serve the folder:"

_TONES: dict[FileState, Tone] = {"new": "good", "changed": "warn", "unchanged": "quiet", "left alone": "quiet"}
_ADDED = "background-color:rgba(26,127,55,0.2)"
_REMOVED = "background-color:rgba(207,34,46,0.2)"


def render_text(
    folder: str,
    files: Sequence[FileChange],
    *,
    checklist: Sequence[str] = (),
    note: str | None = None,
    findings: Sequence[Finding] = (),
) -> str:
    """Render files, findings and checklist as text, with the diffs of changed files."""
    lines = [_title(folder, files), *([f"  {note}"] if note else [])]
    lines += [f"  {file.state:<10}  {file.path}" for file in files]
    for file in files:
        if file.state == "changed" and file.diff:
            lines += ["", *_diff_lines(file)]
    if findings:
        lines += ["", *format_findings(findings)]
    if checklist:
        lines += ["", CHECKLIST_HEADING, *(f"  [ ] {sentence}" for sentence in checklist)]
    return escape_control_characters("".join(f"{line}\n" for line in lines))


def format_findings(findings: Sequence[Finding]) -> list[str]:
    """Format *findings* as text: a heading, then a line for each."""
    return [_FINDINGS_HEADING, *(f"  {each.rule:<11}  {_format_finding(each)}" for each in findings)]


def render_html(
    folder: str,
    files: Sequence[FileChange],
    *,
    checklist: Sequence[str] = (),
    note: str | None = None,
    findings: Sequence[Finding] = (),
) -> str:
    """Render files, findings and checklist as HTML, with collapsible diffs."""
    parts = [tag("strong", _title(folder, files))]
    if note:
        parts.append(tag("div", note))
    rows = [tag("li", _file(file), style="margin:2px 0;list-style-type:none") for file in files]
    parts.append(tag("ul", join_lines(rows), style="margin:4px 0;padding:0;list-style-type:none"))
    if findings:
        seen = [
            tag(
                "li",
                join([pill(each.rule, "warn"), Html(" "), inline_code(_format_finding(each))]),
                style="list-style-type:none",
            )
            for each in findings
        ]
        parts += [
            tag("strong", _FINDINGS_HEADING),
            tag("ul", join_lines(seen), style="margin:4px 0;padding:0;list-style-type:none"),
        ]
    if checklist:
        sentences = [tag("li", "☐ ", inline_code(sentence), style="list-style-type:none") for sentence in checklist]
        parts += [
            tag("strong", CHECKLIST_HEADING),
            tag("ul", join_lines(sentences), style="margin:4px 0;padding:0;list-style-type:none"),
        ]
    return tag("div", join_lines(parts), style=CONTAINER_STYLE, class_="pd-view pd-files")


def build_serving_output(command: str | None, notes: Sequence[str] = ()) -> RichOutput:
    """
    Return the end of an export's report.

    Args:
        command: The command that serves the folder, or None if it cannot be served as it is.
        notes: What to do before the folder is served, as sentences.
    """
    lines = [_SERVE_NOTES_HEADING, *(f"  {note}" for note in notes)] if notes else []
    parts = [tag("strong", _SERVE_NOTES_HEADING), *(tag("div", inline_code(note)) for note in notes)] if notes else []
    if command:
        lines.append(f"{_SERVE_HEADING} {command}")
        parts.append(tag("div", tag("strong", _SERVE_HEADING), Html(" "), copyable(command, command)))
    return RichOutput(
        "\n".join(lines), tag("div", join_lines(parts), style="margin:4px 12px", class_="pd-view pd-note")
    )


def _format_finding(finding: Finding) -> str:
    place = f"{finding.location}: " if finding.location else ""
    fix = "" if "\n" in finding.fix else finding.fix  # code of several lines does not fit into a list
    return " ".join(f"{place}{finding.message} {fix}".split())


def _title(folder: str, files: Sequence[FileChange]) -> str:
    counts = [(state, sum(file.state == state for file in files)) for state in _TONES]
    summary = ", ".join(f"{count} {state}" for state, count in counts if count) or "no files"
    return f"{folder}: {summary}"


def _file(file: FileChange) -> Html:
    head = join([pill(file.state, _TONES[file.state]), Html(" "), tag("code", file.path)])
    if not file.diff:
        return head
    drawn = [_diff_line(line) for line in _diff_lines(file)]
    return collapsible(
        head, tag("pre", join_lines(drawn), style=CODE_STYLE), open_=file.state == "changed" and len(drawn) <= 40
    )


def _diff_line(line: str) -> Html:
    style = "" if line.startswith(("+++", "---")) else {"+": _ADDED, "-": _REMOVED}.get(line[:1], "")
    return tag("span", line or " ", style=style)


def _diff_lines(file: FileChange) -> list[str]:
    all_lines = file.diff.removesuffix("\n").split("\n")
    hidden = len(all_lines) - MAX_DIFF_LINES
    if hidden <= 1:
        return all_lines
    return [*all_lines[:MAX_DIFF_LINES], f"… {format_count(hidden, 'line')} more not shown"]
