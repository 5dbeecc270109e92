"""
The line after `%%pdstep`: its options, its parser into a step's settings, and its format.

The line is split by the shell's rules. An unquoted `{{ }}` keeps its own quotes and blanks.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Self

from pdkernel.errors import DefinitionError, DirectiveError, did_you_mean
from pdkernel.language.directive import option_values
from pdkernel.language.expression import find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES
from pdkernel.model import JSON, LANGUAGES, AppBinding, Language, Step, StoreBinding, check_step_name


@dataclass(frozen=True, slots=True)
class StepOption:
    """
    One option.

    Attributes:
        flag: The option's name, `--lang`.
        metavar: The placeholder of its value, or None for a flag without a value.
        help: One sentence.
        choices: The allowed values; empty allows any.
        is_repeatable: Whether the option may be given several times.
    """

    flag: str
    metavar: str | None
    help: str
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False


STEP_OPTIONS: tuple[StepOption, ...] = (
    StepOption("--lang", "LANGUAGE", "The language of the code (default: python).", choices=LANGUAGES),
    StepOption(
        "--app",
        "[PROP:]SLUG[=ACCOUNT]",
        "An app that the step uses: the external user's account, or an account of your own (apn_...).",
        is_repeatable=True,
    ),
    StepOption("--data-store", "PROP[=STORE]", "A data store that the step uses.", is_repeatable=True),
    StepOption(
        "--prop",
        "NAME=VALUE",
        "A prop's value: JSON, else text; may hold {{ }}, in quotes if it holds spaces.",
        is_repeatable=True,
    ),
    StepOption("--uses", "KEY@VERSION", "Run a pre-built action; the cell's body is its props as YAML."),
    StepOption("--timeout", "SECONDS", "The step's own time limit (default: the workflow's)."),
    StepOption("--disabled", None, "Keep the step, do not run it."),
    StepOption("--debug", None, "Run a Python step in the kernel, for the debugger."),
    StepOption("--no-run", None, "Register the step without running it now."),
)

STEP_FLAGS: tuple[str, ...] = tuple(option.flag for option in STEP_OPTIONS)

LANGUAGE_ALIASES = {
    "js": "node",
    "javascript": "node",
    "nodejs": "node",
    "node.js": "node",
    "mjs": "node",
    "typescript": "node",
    "ts": "node",
    "py": "python",
    "python3": "python",
    "sh": "bash",
    "shell": "bash",
    "golang": "go",
}
"""Other names of the languages, and the option's value for each; used in messages only."""


STEP_MAGIC = "%%pdstep"
_OPTION_PARSERS = {
    "--app": option_values.parse_app,
    "--data-store": option_values.parse_store,
    "--prop": option_values.parse_prop,
    "--uses": option_values.parse_action_reference,
    "--timeout": option_values.parse_timeout,
}


_LEFT, _RIGHT = "\ue000", "\ue001"
_TOKEN = re.compile(f"{_LEFT}\\d+{_RIGHT}")
_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:\\.|[^\"\\])*\"")
_MAX_FAULTS = 5


@dataclass(frozen=True)
class TokenizedLine:
    """A line to split into words, and the expression behind each token in it."""

    text: str
    expressions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def tokenize_unquoted(cls, line: str) -> Self:
        """Replace every unquoted expression of *line* by a token."""
        if OPENING_BRACES not in line or _LEFT in line:
            return cls(line)
        parts: list[str] = []
        expressions: dict[str, str] = {}
        position = faults = 0
        while position < len(line):
            end = None
            # each fault may take as long as the rest of the line
            if faults < _MAX_FAULTS and line.startswith(OPENING_BRACES, position):
                end = find_closing_braces(line, position + len(OPENING_BRACES))
                faults += end is None
            if end is not None:
                token = f"{_LEFT}{len(expressions)}{_RIGHT}"
                expressions[token] = line[position : end + len(CLOSING_BRACES)]
                parts.append(token)
                position = end + len(CLOSING_BRACES)
                continue
            quoted = _QUOTED.match(line, position)
            stop = quoted.end() if quoted else position + 1
            parts.append(line[position:stop])
            position = stop
        return cls("".join(parts), expressions)

    def restore(self, word: str) -> str:
        """*word* with its expressions."""
        return _TOKEN.sub(lambda match: self.expressions.get(match[0], match[0]), word)


@dataclass(frozen=True, slots=True)
class StepLine:
    """The values of a `%%pdstep` line."""

    name: str
    language: Language
    apps: tuple[AppBinding, ...]
    stores: tuple[StoreBinding, ...]
    props: dict[str, JSON]
    uses: str | None
    timeout_s: float | None
    disabled: bool
    debug: bool
    no_run: bool


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DirectiveError(f"{STEP_MAGIC}: {message}.")


@functools.cache  # building a parser takes ten times as long as parsing a line
def _parser() -> _Parser:
    parser = _Parser(prog=STEP_MAGIC, add_help=False, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", nargs="*")
    for option in STEP_OPTIONS:
        if option.metavar is None:
            parser.add_argument(option.flag, action="store_true")
        else:
            action = "append" if option.is_repeatable else "store"
            parser.add_argument(
                option.flag,
                metavar=option.metavar,
                action=action,
                type=_OPTION_PARSERS.get(option.flag, str),
                help=option.help,
            )
    return parser


def parse_step_line(line: str) -> StepLine:
    """
    Parse the text after `%%pdstep`.

    Raises:
        DirectiveError: The line is invalid; the message names the word.
        StepNameError: The step's name is invalid.
    """
    words = _words(line)
    _check_flags(words)
    found = _parser().parse_args(words)
    if not found.name:
        raise DirectiveError(
            f"{STEP_MAGIC} needs the step's name.", fix=f"Write {STEP_MAGIC} NAME, for example {STEP_MAGIC} build."
        )
    name = check_step_name(found.name[0])
    if len(found.name) > 1:
        raise DirectiveError(
            f"{STEP_MAGIC} {name}: unexpected word {found.name[1]!r}. A step has one name, and options start with --.",
            fix="Put quotes around a value that holds spaces.",
        )
    result = StepLine(
        name=name,
        language=_language(found.lang, uses=found.uses),
        apps=tuple(found.app or ()),
        stores=tuple(found.data_store or ()),
        props=dict(found.prop or ()),
        uses=found.uses,
        timeout_s=found.timeout,
        disabled=found.disabled,
        debug=found.debug,
        no_run=found.no_run,
    )
    _check_combination(result, prop_names=[name for name, _ in found.prop or ()])
    return result


def _words(line: str) -> list[str]:
    hidden = TokenizedLine.tokenize_unquoted(line)
    try:
        return [hidden.restore(word) for word in shlex.split(hidden.text)]
    except ValueError as fault:
        raise DirectiveError(
            f"{STEP_MAGIC}{' ' + line.strip() if line.strip() else ''}: a quotation mark is not closed ({fault}).",
            fix='Close it; inside double quotes write \\" for a quotation mark.',
        ) from None


def _check_flags(words: Sequence[str]) -> None:
    """Refuse an unknown option with a suggestion, which argparse does not make."""
    takes_value = {option.flag for option in STEP_OPTIONS if option.metavar is not None}
    skip = False
    for word in words:
        if skip:
            skip = False
            continue
        flag = word.partition("=")[0]
        if word in takes_value:
            skip = True
        elif word.startswith("-") and flag not in STEP_FLAGS:
            raise DirectiveError(
                f"{STEP_MAGIC}: there is no option {flag}.",
                fix=did_you_mean(flag, STEP_FLAGS, aliases={"-l": "--lang"}),
            )


def _language(text: str | None, *, uses: str | None) -> Language:
    if text is None:
        return "node" if uses else "python"
    for language in LANGUAGES:
        if text == language:
            if uses and language != "node":
                raise DirectiveError(
                    f"{STEP_MAGIC}: --uses {uses} is a pre-built action in Node.js, but --lang is {language}.",
                    fix="Remove --lang.",
                )
            return language
    raise DirectiveError(
        f"{STEP_MAGIC}: there is no language {text!r}.", fix=did_you_mean(text, LANGUAGES, aliases=LANGUAGE_ALIASES)
    )


def _check_combination(line: StepLine, *, prop_names: Sequence[str]) -> None:
    names = [*(app.prop for app in line.apps), *(store.prop for store in line.stores), *prop_names]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DirectiveError(
                f"{STEP_MAGIC} {line.name}: the prop {name!r} is given twice.",
                fix="A second app needs a name: --app NAME:SLUG.",
            )
    if line.debug and (line.language != "python" or line.uses):
        raise DirectiveError(
            f"{STEP_MAGIC} {line.name}: --debug is for Python steps only.",
            fix="Remove --debug.",
        )


def format_step_line(step: Step, *, props: bool = True, no_run: bool = False) -> str:
    """
    The `%%pdstep` line of *step*.

    Args:
        step: The step.
        props: False leaves the props out, for a cell whose body holds them.
        no_run: Add `--no-run`.

    Raises:
        DirectiveError: A prop's name cannot be written on the line.
    """
    words = [step.name]
    if step.uses:
        words += ["--uses", step.uses]
    elif step.language != "python":
        words += ["--lang", step.language]
    for binding in step.apps:
        words += ["--app", option_values.format_app(binding)]
    for store in step.stores:
        words += ["--data-store", option_values.format_store(store)]
    for name, value in step.props.items() if props else ():
        try:
            words += ["--prop", option_values.format_prop(name, value)]
        except ValueError as fault:
            raise DirectiveError(f"Step {step.name}: {fault}.", step=step.name) from None
    if step.timeout_s is not None:
        words += ["--timeout", option_values.format_timeout(step.timeout_s)]
    flags = {"--disabled": step.disabled, "--debug": step.debug, "--no-run": no_run}
    return shlex.join([STEP_MAGIC, *words, *(flag for flag, is_set in flags.items() if is_set)])


def with_line(error: DefinitionError, line: int) -> DefinitionError:
    """*error* with *line* of the cell, unless it has a line already."""
    if error.line is None:
        error.line = line
    return error
