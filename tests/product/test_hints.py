"""Commands and options that messages, help and documentation name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest

from pdkernel.cli import pdkernel
from pdkernel.language.directive import STEP_OPTIONS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pdkernel"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_COMMAND = re.compile(r"(?<![\w./-])pdkernel (?=[a-z])(?P<rest>[^\n`|<>]*)")
_QUOTED = re.compile(r"`pdkernel (?P<rest>[a-z][^`\n]*)`")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_END = re.compile(r"[.;:,)](?:\s|$)| or | and | to \w+ |\s#|\bpdkernel\b|&&|\(")
"""The end of a command in a sentence."""
OTHER_PROGRAMS = frozenset({"--no-deps", "--upgrade"})
"""Options of other programs, which fixes name."""


def subcommands(command: click.Command) -> dict[str, click.Command]:
    """The commands of a group by name, or none."""
    return dict(command.commands) if isinstance(command, click.Group) else {}


def options(command: click.Command) -> set[str]:
    """The options of a command."""
    return {"--help", *(opt for each in command.params for opt in (*each.opts, *each.secondary_opts))}


def find_fault(rest: str) -> str | None:
    """What does not exist in the command line `pdkernel REST`, or None; text after its first word may be a sentence."""
    command: click.Command = pdkernel
    words = rest.split()
    known = options(pdkernel)
    while words and (found := subcommands(command)):
        word = words[0].strip("'\".,:;)")
        if word.startswith("-"):
            words = words[2:] if word in ("--project", "--database") else words[1:]
            continue
        if word not in found:
            return f"no command {word!r}" if re.fullmatch(r"[a-z][a-z-]*", word) else None
        command, words = found[word], words[1:]
    known |= options(command)
    line = _END.split(" ".join(words), maxsplit=1)[0]
    missing = [each for each in _OPTION.findall(line) if each not in known]
    return f"{command.name} has no {', '.join(missing)}" if missing else None


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in *node*; a value in an f-string is `X`."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)  # type: ignore[misc]
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts(part.value)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def parsed(words: str) -> Iterator[tuple[Path, ast.Module]]:
    """The syntax tree of each module of the package that matches *words*: a tree takes longer than a search."""
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if re.search(words, text):
            yield file, ast.parse(text)


@cache
def known_options() -> frozenset[str]:
    """The options of every command, of every magic and of the line of a step."""
    found: set[str] = set()

    def add(command: click.Command) -> None:
        found.update(options(command))
        for each in subcommands(command).values():
            add(each)

    add(pdkernel)
    for file in (PACKAGE / "kit" / "magics").glob("*.py"):
        module = import_module(f"pdkernel.kit.magics.{file.stem}")
        for magic in (
            each for group in vars(module).values() if isinstance(group, type) for each in vars(group).values()
        ):
            actions = getattr(getattr(magic, "parser", None), "_actions", ())
            found.update(option for action in actions for option in action.option_strings)
    found.update(each.flag for each in STEP_OPTIONS)
    return frozenset(found)


def test_commands_in_texts_of_the_package_exist() -> None:
    """Messages and help name commands and options that the command line has; prose after `pdkernel` is not a command."""
    named = "|".join(subcommands(pdkernel))
    faults = [
        f"{file.relative_to(ROOT)}: pdkernel {found['rest']}: {fault}"
        for file, tree in parsed(
            rf"""(?<!from )pdkernel (?:(?:{named})\b|["'{{\\])"""
        )  # or a text goes on in the next line
        for text in texts(tree)
        for found in _COMMAND.finditer(text)
        if found["rest"].split()[0].strip(".,:;)") in subcommands(pdkernel)
        if (fault := find_fault(found["rest"])) is not None
    ]

    assert faults == []


def test_options_in_fixes_exist() -> None:
    """Every option that the fix of an error names is one of a command, of a magic, of a step or of a named program."""
    faults = [
        f"{file.relative_to(ROOT)}:{keyword.value.lineno}: {option}"
        for file, tree in parsed("fix=")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "fix"
        for text in texts(keyword.value)
        for option in _OPTION.findall(text)
        if option not in known_options() | OTHER_PROGRAMS
    ]

    assert faults == []


def test_commands_in_pages_exist() -> None:
    """A command in backticks, or after a prompt, exists with its options."""
    faults = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace(" \\\n>  ", " ").replace(" \\\n> ", " ")
        commands = [found["rest"] for found in _QUOTED.finditer(text)]
        commands += [line.removeprefix("$ pdkernel ") for line in text.splitlines() if line.startswith("$ pdkernel ")]
        faults += [
            f"{page.relative_to(ROOT)}: pdkernel {each}: {fault}"
            for each in commands
            if (fault := find_fault(each)) is not None
        ]

    assert faults == []


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("runs replay ID --egress live", None),
        ("runs replay ID --sends", "replay has no --sends"),
        ("runs repeat ID", "no command 'repeat'"),
        ("--project FOLDER runs list", None),
    ],
)
def test_a_command_that_does_not_exist_is_found(rest: str, fault: str | None) -> None:
    """The check finds a wrong subcommand and a wrong option."""
    assert find_fault(rest) == fault
