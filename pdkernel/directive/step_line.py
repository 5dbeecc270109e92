"""
The line after `%%pdstep`, to a step's settings and back.

Knows argparse and the shell's quoting. Knows nothing of the cell around the line.
"""

from __future__ import annotations

import argparse
import functools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from pdkernel.directive import option_values
from pdkernel.directive.hidden import TokenizedLine
from pdkernel.directive.step_options import LANGUAGE_ALIASES, STEP_FLAGS, STEP_OPTIONS
from pdkernel.directive.suggestions import did_you_mean
from pdkernel.errors import DefinitionError, DirectiveError
from pdkernel.model import JSON, LANGUAGES, AppBinding, Language, Step, StoreBinding, check_step_name

STEP_MAGIC = "%%pdstep"
_OPTION_PARSERS = {
    "--app": option_values.parse_app,
    "--data-store": option_values.parse_store,
    "--prop": option_values.parse_prop,
    "--uses": option_values.parse_action_reference,
    "--timeout": option_values.parse_timeout,
}


@dataclass(frozen=True, slots=True)
class StepLine:
    """What a `%%pdstep` line says."""

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


@functools.cache  # building one costs ten times what parsing a line does
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
    Read what stands after `%%pdstep`.

    Raises:
        DirectiveError: It cannot be read; the message names the word.
        StepNameError: The step's name cannot be one.
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
            f"{STEP_MAGIC} {name}: what is {found.name[1]!r}? A step has one name, and options start with --.",
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
    """Name an unknown option ourselves: argparse would not say what is near it."""
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
                    f"{STEP_MAGIC}: --uses {uses} is a pre-built action, which is Node.js, and --lang says {language}.",
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
            f"{STEP_MAGIC} {line.name}: --debug runs a Python step in the kernel, and this is not one.",
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
        DirectiveError: A prop's name cannot stand on the line.
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
    """*error*, said to be in *line* of the cell unless it knows better."""
    if error.line is None:
        error.line = line
    return error
