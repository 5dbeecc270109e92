"""
The line after `%%pdstep`: its options and their values, its parser into a step's settings, and its format.

The line is split by the shell's rules. An unquoted `{{ }}` keeps its own quotes and blanks. A prop's value is JSON if the text
parses as JSON, else the text itself: `5` is a number, `"5"` is text. A text that would parse as JSON, or that does not fit on a
line, is written as a JSON string, so every value has one form that is read back as it is.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Self

from pdkernel.errors import DefinitionError, DirectiveError, did_you_mean
from pdkernel.language.expression import find_closing_braces
from pdkernel.language.expression.template import CLOSING_BRACES, OPENING_BRACES
from pdkernel.model import JSON, LANGUAGES, AppBinding, Language, Step, StoreBinding, check_step_name

MAX_TIMEOUT_S = 750
"""The platform's highest time limit for a workflow."""

_APP = re.compile(
    r"(?:(?P<prop>[A-Za-z_$][\w$]*):)?(?P<app>[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:=(?P<account>[A-Za-z0-9_-]+))?\Z", re.ASCII
)
_PROP_NAME = re.compile(r"[A-Za-z_$][\w$.-]*\Z", re.ASCII)
_VERSION = r"@\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?"
_USES = re.compile(
    rf"(?:(?:@[\w.-]+/)?[A-Za-z0-9_][\w.-]*{_VERSION}|@[\w.-]+/[A-Za-z0-9_][\w.-]*|[A-Za-z0-9_]+(?:-[\w.]+)+)\Z",
    re.ASCII,
)
"""KEY@VERSION. The version may be missing in a key with a workspace or a hyphen: other words are not keys."""


def parse_app(text: str) -> AppBinding:
    """Parse `[PROP:]SLUG[=ACCOUNT]`; PROP defaults to SLUG."""
    match = _APP.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not [PROP:]SLUG[=ACCOUNT], for example slack, chat:slack or slack=apn_1"
        )
    return AppBinding(prop=match["prop"] or match["app"], app=match["app"], account=match["account"])


def format_app(binding: AppBinding) -> str:
    """Return the reverse of `parse_app`."""
    prop = "" if binding.prop == binding.app else f"{binding.prop}:"
    account = "" if binding.account is None else f"={binding.account}"
    return f"{prop}{binding.app}{account}"


def parse_store(text: str) -> StoreBinding:
    """Parse `PROP[=STORE]`."""
    prop, equals, name = text.partition("=")
    if not _PROP_NAME.match(prop) or (equals and not name.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is not PROP[=STORE], for example data_store or cache=ds_1")
    return StoreBinding(prop, name if equals else None)


def format_store(binding: StoreBinding) -> str:
    """Return the reverse of `parse_store`."""
    return binding.prop if binding.store is None else f"{binding.prop}={binding.store}"


def parse_prop(text: str) -> tuple[str, JSON]:
    """Parse `NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not equals or not _PROP_NAME.match(name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, for example channel=general")
    return name, parse_value(value)


def format_prop(name: str, value: JSON) -> str:
    """
    Return the reverse of `parse_prop`.

    Raises:
        ValueError: The prop's name cannot be written on the line.
    """
    if not _PROP_NAME.match(name):
        raise ValueError(f"a prop called {name!r} cannot be written on a %%pdstep line")
    return f"{name}={format_value(value)}"


def parse_value(text: str) -> JSON:
    """Return the JSON value of *text*, or *text* itself."""
    try:
        value: JSON = json.loads(text, parse_constant=_reject_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return text
    return value


def format_value(value: JSON) -> str:
    """Return the reverse of `parse_value`, on one line."""
    if isinstance(value, str) and value.isprintable() and parse_value(value) == value:
        return value
    # Line separators and unpaired surrogates become \u escapes.
    return json.dumps(value, ensure_ascii=isinstance(value, str) and not value.isprintable())


def is_action_reference(text: str) -> bool:
    """Return whether *text* is `KEY@VERSION`, or `@WORKSPACE/KEY@VERSION`, or one of both without its version."""
    return _USES.match(text) is not None


def parse_action_reference(text: str) -> str:
    """Parse a reference as for `is_action_reference`."""
    if not is_action_reference(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY@VERSION, for example slack-send-message@0.0.20")
    return text


_INSIDE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*\Z", re.ASCII)


def parse_inside(text: str) -> str:
    """Parse `BLOCK.BRANCH`."""
    if _INSIDE.match(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not BLOCK.BRANCH, for example triage.urgent")
    return text


def parse_timeout(text: str) -> float:
    """Parse a number of seconds, more than 0 and at most 750."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {MAX_TIMEOUT_S}")
    return seconds


def format_timeout(seconds: float) -> str:
    """Return the reverse of `parse_timeout`."""
    return repr(float(seconds)).removesuffix(".0")


def _reject_constant(constant: str) -> JSON:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


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


INSIDE_OPTION = StepOption("--in", "BLOCK.BRANCH", "The branch that the cell is part of.")
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
    INSIDE_OPTION,
    StepOption("--timeout", "SECONDS", "The step's own time limit (default: the workflow's)."),
    StepOption("--disabled", None, "Keep the step, do not run it."),
    StepOption("--debug", None, "Run a Python step in the kernel, for the debugger."),
    StepOption("--no-run", None, "Register the step without running it now."),
)

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
    "--in": parse_inside,
    "--app": parse_app,
    "--data-store": parse_store,
    "--prop": parse_prop,
    "--uses": parse_action_reference,
    "--timeout": parse_timeout,
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
        """Return *word* with its expressions."""
        return _TOKEN.sub(lambda match: self.expressions.get(match[0], match[0]), word)


@dataclass(frozen=True, slots=True)
class StepLine:
    """The values of a `%%pdstep` line."""

    name: str
    inside: str | None
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
        raise DirectiveError(f"{self.prog}: {message}.")


@functools.cache  # building a parser takes ten times as long as parsing a line
def _parser(magic: str, options: tuple[StepOption, ...]) -> _Parser:
    parser = _Parser(prog=magic, add_help=False, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", nargs="*")
    for option in options:
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
    name, found = parse_line(line, STEP_MAGIC, STEP_OPTIONS, example="build")
    result = StepLine(
        name=name,
        inside=getattr(found, "in"),
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


def parse_line(
    line: str, magic: str, options: tuple[StepOption, ...], *, example: str
) -> tuple[str, argparse.Namespace]:
    """
    Parse the text after *magic*: a name, and *options*.

    Args:
        line: The text after the magic.
        magic: The magic, `%%pdstep`, for messages.
        options: The options that the line may have.
        example: A name for messages.

    Returns:
        The name, and the values of the options by the names that argparse gives them.

    Raises:
        DirectiveError: The line is invalid; the message names the word.
        StepNameError: The name is invalid.
    """
    words = _words(line, magic)
    _check_flags(words, magic, options)
    found = _parser(magic, options).parse_args(words)
    what = "step" if magic == STEP_MAGIC else "block"
    if not found.name:
        raise DirectiveError(
            f"{magic} needs the {what}'s name.", fix=f"Write {magic} NAME, for example {magic} {example}."
        )
    name = check_step_name(found.name[0])
    if len(found.name) > 1:
        raise DirectiveError(
            f"{magic} {name}: unexpected word {found.name[1]!r}. A {what} has one name, and options start with --.",
            fix="Put quotes around a value that holds spaces.",
        )
    return name, found


def _words(line: str, magic: str) -> list[str]:
    hidden = TokenizedLine.tokenize_unquoted(line)
    try:
        return [hidden.restore(word) for word in shlex.split(hidden.text)]
    except ValueError as fault:
        raise DirectiveError(
            f"{magic}{' ' + line.strip() if line.strip() else ''}: a quotation mark is not closed ({fault}).",
            fix='Close it; inside double quotes write \\" for a quotation mark.',
        ) from None


def _check_flags(words: Sequence[str], magic: str, options: Sequence[StepOption]) -> None:
    """Refuse an unknown option with a suggestion, which argparse does not make."""
    takes_value = {option.flag for option in options if option.metavar is not None}
    skip = False
    for word in words:
        if skip:
            skip = False
            continue
        flag = word.partition("=")[0]
        if word in takes_value:
            skip = True
        elif word.startswith("-") and flag not in (flags := [option.flag for option in options]):
            near = difflib.get_close_matches(flag.lstrip("-"), [each.lstrip("-") for each in flags])  # dashes are alike
            aliases = {"-l": "--lang"} if magic == STEP_MAGIC else {}
            fix = did_you_mean(flag, [f"--{each}" for each in near] or flags, aliases=aliases)
            raise DirectiveError(f"{magic}: there is no option {flag}.", fix=fix)


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
    Return the `%%pdstep` line of *step*.

    Args:
        step: The step.
        props: False leaves the props out, for a cell whose body holds them.
        no_run: Add `--no-run`.

    Raises:
        DirectiveError: A prop's name cannot be written on the line.
    """
    words = [step.name, *(["--in", step.inside] if step.inside is not None else ())]
    if step.uses:
        words += ["--uses", step.uses]
    elif step.language != "python":
        words += ["--lang", step.language]
    for binding in step.apps:
        words += ["--app", format_app(binding)]
    for store in step.stores:
        words += ["--data-store", format_store(store)]
    for name, value in step.props.items() if props else ():
        try:
            words += ["--prop", format_prop(name, value)]
        except ValueError as fault:
            raise DirectiveError(f"Step {step.name}: {fault}.", step=step.name) from None
    if step.timeout_s is not None:
        words += ["--timeout", format_timeout(step.timeout_s)]
    flags = {"--disabled": step.disabled, "--debug": step.debug, "--no-run": no_run}
    return shlex.join([STEP_MAGIC, *words, *(flag for flag, is_set in flags.items() if is_set)])


def with_line(error: DefinitionError, line: int) -> DefinitionError:
    """Return *error* with *line* of the cell, unless it has a line already."""
    if error.line is None:
        error.line = line
    return error
