"""
Directives for the reference pages: tables and pictures that are read from the package when the docs are built.

Each directive builds Markdown, which Sphinx parses in the place of the directive. A page that uses one needs no change
when the code changes.
"""

from __future__ import annotations

import argparse
import ast
import html
import importlib
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
from docutils import nodes
from IPython.core.interactiveshell import InteractiveShell
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Keyword, Text
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from pdkernel import errors, load_ipython_extension, unload_ipython_extension
from pdkernel.cli import pdkernel
from pdkernel.cli.app import Command
from pdkernel.language.directive import BLOCK_MAGICS, STEP_OPTIONS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pdkernel"
MIN_WORDS = 3
"""A message with fewer words of its own is not listed."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_in_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """*text* as inline code, empty for no text."""
    return f"`{text}`" if text else ""


# --- magics


def magics() -> str:
    """Every magic with its arguments, from the parsers that the extension registers."""
    shell = InteractiveShell.instance()
    before = {kind: set(found) for kind, found in shell.magics_manager.magics.items()}
    load_ipython_extension(shell)
    try:
        found = shell.magics_manager.magics
        parts = [_step_magic()]
        parts += [
            _magic("%%" if kind == "cell" else "%", name, function)
            for kind in ("cell", "line")
            for name, function in sorted(found[kind].items())
            if name not in before[kind] and name != "pdstep"
        ]
    finally:
        unload_ipython_extension(shell)
        InteractiveShell.clear_instance()
    return "\n".join(parts)


def _step_magic() -> str:
    rows = [[code(f"{option.flag} {option.metavar or ''}".strip()), escape(option.help)] for option in STEP_OPTIONS]
    return (
        "## `%%pdstep`\n\nOne step: the text below the line is the content of the step's file. A running cell runs its step "
        "alone, on the chosen event, with the exports of the steps above.\n\n```text\n%%pdstep NAME [options]\n```\n\n"
        + table(["option", "meaning"], rows)
    )


def _magic(prefix: str, name: str, function: Any) -> str:
    parser: argparse.ArgumentParser | None = getattr(function, "parser", None)
    if parser is None:
        return f"## `{prefix}{name}`\n\n{_docstring(function)}\n"
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001 (argparse has no public list of a parser's arguments)
    usage = " ".join([f"{prefix}{name}", *(_usage(action) for action in actions)])
    text = re.sub(r"\A::.*?\n\n", "", inspect.cleandoc(parser.description or ""), flags=re.DOTALL)
    rows = [[code(_argument(action)), escape((action.help or "").replace("%%", "%"))] for action in actions]
    return f"## `{prefix}{name}`\n\n{escape(text)}\n\n```text\n{usage}\n```\n\n" + (
        table(["argument", "meaning"], rows) if rows else ""
    )


def _usage(action: argparse.Action) -> str:
    if action.option_strings:
        return f"[{_argument(action)}]"
    word = _argument(action)
    return f"[{word} ...]" if action.nargs == "*" else f"[{word}]"


def _argument(action: argparse.Action) -> str:
    if not action.option_strings:
        return "|".join(action.choices) if action.choices else str(action.metavar or action.dest).upper()
    option = action.option_strings[-1]
    if action.nargs == 0:
        return option
    metavar = action.metavar or action.dest.upper()
    return f"{option} {metavar if isinstance(metavar, str) else ' '.join(metavar)}"


def _docstring(function: Any) -> str:
    text = inspect.getdoc(function) or ""
    return re.sub(
        r"^::\n\n((?:    .*\n?|\n)+)",
        lambda block: f"```text\n{inspect.cleandoc(block[1])}\n```\n",
        text,
        flags=re.MULTILINE,
    )


def escape(text: str) -> str:
    """*text* with the characters escaped that Markdown would read, outside inline code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]{}$])", r"\\\1", part) for part in parts)


# --- errors


ERROR_CLASS = re.compile(r"^class [A-Z]\w*\(.*Error\):", re.MULTILINE)


def error_classes() -> str:
    """Each error class of the package: code, exit status, meaning, and the messages with their fixes."""
    for file in sorted(PACKAGE.rglob("*.py")):
        if ERROR_CLASS.search(file.read_text(encoding="utf-8")) and "runtimes" not in file.parts:
            importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
    raised = _raised()
    parts = []
    bases = (errors.DefinitionError, errors.RequestError, errors.StepError, errors.InternalError)
    for base in (*bases, *(each for each in errors.PdkernelError.__subclasses__() if each not in bases)):
        parts.append(f"## {_heading(base)}\n\n{_first_line(base)}\n")
        classes = [each for each in (base, *_below(base)) if "code" in vars(each)]
        parts += [_error_class(each, raised) for each in classes if each in raised or each not in bases]
    return "\n".join(parts)


def _heading(base: type[errors.PdkernelError]) -> str:
    return f"`{base.__name__}`: exit status {base.exit_status}"


def _error_class(each: type[errors.PdkernelError], raised: Mapping[type, list[tuple[str, str]]]) -> str:
    rows = [[escape(message), escape(fix)] for message, fix in raised.get(each, [])]
    status = f", exit status {each.exit_status}"
    return f"### `{each.code}`\n\n`{each.__name__}`{status}. {_first_line(each)}\n\n" + (
        table(["message", "fix"], rows) if rows else ""
    )


def _below(base: type[errors.PdkernelError]) -> Iterator[type[errors.PdkernelError]]:
    for each in base.__subclasses__():
        if not each.__name__.startswith("_") and each.__module__.startswith("pdkernel."):
            yield each
            yield from _below(each)


def _first_line(each: type) -> str:
    return (inspect.getdoc(each) or "").partition("\n\n")[0]


def _raised() -> dict[type, list[tuple[str, str]]]:
    """The messages and fixes that the package writes where it builds an error, by class; values are `NAME`."""
    found: dict[type, list[tuple[str, str]]] = {}
    classes = {each.__name__: each for each in _below(errors.PdkernelError)}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            named = classes.get(name)
            each = named and next(above for above in named.__mro__ if "code" in vars(above))
            message = _template(node.args[0])
            if each is None or not message:
                continue
            if len(re.findall(r"\b[a-z]+\b", message)) < MIN_WORDS:
                continue  # the text is in the values
            fix = next((_template(word.value) or "" for word in node.keywords if word.arg == "fix"), "")
            pairs = found.setdefault(each, [])
            if (message, fix) not in pairs:
                pairs.append((message, fix))
    return found


def _template(node: ast.expr) -> str | None:
    """The text of a literal or an f-string, with the names of its values in capitals; None for other expressions."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(_template(value) or "" for value in values)
        case ast.FormattedValue(value=value):
            return _name_of(value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            sides = (_template(left), _template(right))
            return None if None in sides else "".join(side or "" for side in sides)
    return None


def _name_of(node: ast.expr) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_").upper()
        case ast.Constant(value=value):
            return str(value)
        case ast.Call(args=[first, *_]):
            return _name_of(first)
        case ast.Call(func=called):
            return _name_of(called)
        case ast.Subscript(value=value):
            return _name_of(value)
    return "…"


# --- pdkernel.yaml


def schema() -> str:
    """The keys of `pdkernel.yaml` from its JSON Schema."""
    document = json.loads((PACKAGE / "files" / "definition" / "pdkernel.schema.json").read_text(encoding="utf-8"))
    rows = [
        [code(path), _type(part), escape(part.get("description", ""))] for path, part in _keys(document, document, "")
    ]
    return table(["key", "value", "meaning"], rows)


def _keys(document: Mapping[str, Any], part: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    part = _resolve(document, part)
    for choice in part.get("anyOf", []):
        yield from _keys(document, choice, path)
    for name, value in part.get("properties", {}).items():
        below = _resolve(document, value)
        yield f"{path}{name}", {**below, **value}
        yield from _keys(document, below, f"{path}{name}.")
    if isinstance(part.get("additionalProperties"), dict):
        value = part["additionalProperties"]
        below = _resolve(document, value)
        yield f"{path}NAME", {**below, **value}
        yield from _keys(document, below, f"{path}NAME.")
    if isinstance(part.get("items"), dict) and part["items"].get("$ref"):
        yield from _keys(document, part["items"], f"{path.removesuffix('.')}[].")


def _resolve(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    while "$ref" in part:
        part = document["$defs"][part["$ref"].rpartition("/")[2]]
    return part


def _type(part: Mapping[str, Any]) -> str:
    if "const" in part:
        return code(str(part["const"]))
    if "enum" in part:
        return ", ".join(code(str(value)) for value in part["enum"])
    if "anyOf" in part:
        return " or ".join(_type(choice) for choice in part["anyOf"])
    kinds = part.get("type", "object")
    text = " or ".join(kinds) if isinstance(kinds, list) else str(kinds)
    low, high = part.get("minimum", part.get("exclusiveMinimum")), part.get("maximum")
    return f"{text}, {low} to {high}" if low is not None and high is not None else text


# --- variables of options


def option_variables() -> str:
    """The options of commands that an environment variable sets too."""
    options: dict[str, list[str]] = {}
    for name, command in _commands(pdkernel, "pdkernel"):
        for parameter in command.params:
            variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
            for variable in variables:
                options.setdefault(variable, []).append(f"{name} {max(parameter.opts, key=len)}")
    rows = [[code(variable), ", ".join(code(use) for use in uses)] for variable, uses in sorted(options.items())]
    return table(["variable", "option"], rows) if rows else "No option has a variable of its own.\n"


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for word, below in sorted(command.commands.items()):
            yield from _commands(below, f"{name} {word}")


# --- layers


def layer_rows() -> list[list[str]]:
    """The layers of `pyproject.toml`, the highest first: the packages of each."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [re.split(r"\s*[|:]\s*", layer) for layer in layers]


def packages_table() -> str:
    """Each package of the layers with the first line of its docstring."""
    rows = []
    for name in (name for layer in layer_rows() for name in layer):
        file = PACKAGE / name / "__init__.py" if (PACKAGE / name).is_dir() else PACKAGE / f"{name}.py"
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        rows.append([code(name), escape(re.split(r"\n\n", text)[0])])
    return table(["package", "responsibility"], rows)


def layers_picture() -> str:
    """The layers as an SVG picture."""
    width, gap, height, per_row = 760, 8, 30, 6
    shapes: list[str] = []
    top = 4
    for layer in layer_rows():
        rows = [layer[start : start + per_row] for start in range(0, len(layer), per_row)]
        for row in rows:
            box = (width - gap * (len(row) - 1)) / len(row)
            for place, name in enumerate(row):
                left = place * (box + gap)
                shapes.append(f'<rect x="{left:.1f}" y="{top}" width="{box:.1f}" height="{height}" rx="4"/>')
                shapes.append(
                    f'<text x="{left + box / 2:.1f}" y="{top + 19}" text-anchor="middle">{html.escape(name)}</text>'
                )
            top += height + 4
        top += 10
    label = "Layers: " + "; ".join(", ".join(layer) for layer in layer_rows())
    return f'<svg class="layers" role="img" aria-label="{label}" viewBox="0 0 {width} {top}">{"".join(shapes)}</svg>'


# --- Sphinx


class Generated(SphinxDirective):
    """The Markdown of a function, parsed in the place of the directive."""

    build: ClassVar[Callable[[], str]]

    def run(self) -> list[nodes.Node]:
        """Build and parse the text."""
        self.env.note_dependency(__file__)
        return self.parse_text_to_nodes(type(self).build(), allow_section_headings=True)


class Layers(SphinxDirective):
    """The layer picture."""

    def run(self) -> list[nodes.Node]:
        """Build the picture."""
        self.env.note_dependency(str(ROOT / "pyproject.toml"))
        return [nodes.raw("", layers_picture(), format="html")]


class CellLexer(Lexer):
    """A notebook cell: the magic's line, then the language that the line names."""

    name = "pdkernel cell"
    aliases: ClassVar[list[str]] = ["cell"]

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, Any, str]]:
        """Split the first line from the code below."""
        line, newline, body = text.partition("\n")
        if not line.startswith("%"):
            line, newline, body = "", "", text
        yield 0, Keyword, line
        yield len(line), Text, newline
        start = len(line) + len(newline)
        for index, token, value in get_lexer_by_name(_language(line)).get_tokens_unprocessed(body):
            yield start + index, token, value


def _language(line: str) -> str:
    if line.startswith(("%%pdworkflow", *BLOCK_MAGICS.values())) or "--uses" in line:
        return "yaml"
    lang = re.search(r"--lang(?:=| +)(\w+)", line)
    return {"node": "javascript"}.get(lang[1], lang[1]) if lang else "python"


def plain_help(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Escape what reStructuredText would read in a help text: sphinx-click hands over the text as it is."""
    lines[:] = [line if re.match(r"\s*(\.\.|:)", line) else _escape_rst(line) for line in lines]


def help_ends(_app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Add the examples and the exit statuses of a command."""
    command = context.command
    if not isinstance(command, Command):
        return
    if command.examples:
        lines += [".. rubric:: Examples", "", ".. code-block:: console", ""]
        lines += [*(f"   $ {example}" for example in command.examples), ""]
    if command.exit_statuses:
        lines += [".. rubric:: Exit status", ""]
        lines += [*(f"- ``{status}``: {meaning}" for status, meaning in sorted(command.exit_statuses.items())), ""]


def _escape_rst(line: str) -> str:
    """*line* with `*`, `|` and a final `_` of a word escaped, except in what sphinx-click itself writes."""
    own = re.match(r"(\s*)(\*\*Required\*\* |\| )?", line)
    assert own is not None
    return own[0] + re.sub(r"[*|]|(?<=\w)_(?=\W|$)", r"\\\g<0>", line[own.end() :])


DIRECTIVES: dict[str, Callable[[], str]] = {
    "generated-magics": magics,
    "generated-errors": error_classes,
    "generated-schema": schema,
    "generated-option-variables": option_variables,
    "generated-packages": packages_table,
}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives, the lexer and the escaping of help texts; `sphinx_click` is loaded before."""
    for name, build in DIRECTIVES.items():
        app.add_directive(name, type(name, (Generated,), {"build": staticmethod(build)}))
    app.add_directive("layers", Layers)
    app.add_lexer("cell", CellLexer)
    for part in ("description", "options", "epilog"):
        app.connect(f"sphinx-click-process-{part}", plain_help)
    app.connect("sphinx-click-process-epilog", help_ends)
    return {"parallel_read_safe": False}
