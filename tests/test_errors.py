"""The codes, exit statuses and messages of the error classes."""

from __future__ import annotations

import pytest

from pdkernel import errors
from pdkernel.workers import StepEntryPointError, StepUnsupportedError

CODES = {
    "error": 3,
    "definition": 2,
    "not_a_workflow": 2,
    "directive": 2,
    "expression": 2,
    "archive": 2,
    "step_name": 2,
    "duplicate_step": 2,
    "unknown_step": 2,
    "step_order": 2,
    "block": 2,
    "entry_point": 2,
    "package_name": 2,
    "unsupported": 2,
    "action_not_found": 2,
    "action_version": 2,
    "action_props": 2,
    "request": 2,
    "event": 2,
    "package_missing": 2,
    "licence": 2,
    "connect_settings": 2,
    "end_user": 2,
    "external_user_required": 2,
    "external_user_not_found": 2,
    "account_not_found": 2,
    "production_plan": 2,
    "step_failed": 1,
    "timeout": 1,
    "export_not_json": 1,
    "store_value": 1,
    "step_died": 1,
    "package_install": 1,
    "egress_refused": 1,
    "internal": 3,
    "interpreter_missing": 2,
    "action_source": 2,
    "project": 3,
    "database_unreachable": 3,
    "executor_lost": 3,
    "tables_changed": 3,
}
"""The exit status of each code: programs rely on both."""


def test_codes_and_exit_statuses() -> None:
    """Every class of the module has its own code, with the exit status of the kind of error."""
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.PdkernelError)
    ]

    with_code = [each for each in classes if "code" in vars(each)]

    assert {each.code: each.exit_status for each in with_code} == CODES
    assert len(with_code) == len(CODES)
    assert {code: errors.exit_status_of(code) for code in CODES} == CODES
    assert errors.exit_status_of("a code of a step") == 1


def test_a_code_of_a_step_and_of_a_refusal_has_one_exit_status() -> None:
    """Some errors in a step's process have the code of a refusal; its status does not depend on the order of the classes."""
    shared = (StepEntryPointError, StepUnsupportedError)

    assert [(each.exit_status, errors.exit_status_of(each.code)) for each in shared] == [(1, 2), (1, 2)]


def test_message_and_fix() -> None:
    """The text of an error is its message, and its fix on a line below."""
    assert str(errors.RequestError("What.", fix="How.")) == "What.\nHow."
    assert str(errors.RequestError("What.")) == "What."
    assert str(errors.EndUserError("What.", fix="How.")) == "Pipedream Connect Error: What.\nHow."


def test_fields_of_errors() -> None:
    """An error has the places and names that it was made with."""
    event = errors.EventError("m", fix="f", line=1, column=2)
    step = errors.StepError("m", name="TypeError", line=3, stack="s", fix="f")
    install = errors.PackageInstallError("m", fix="f", package="axios", line=4)

    assert (event.message, event.fix, event.line, event.column) == ("m", "f", 1, 2)
    assert (step.message, step.name, step.line, step.stack, step.fix) == ("m", "TypeError", 3, "s", "f")
    assert (install.name, install.package, install.line, install.fix) == ("PackageInstallError", "axios", 4, "f")
    assert (errors.StepError("m").name, errors.StepError("m").line, errors.StepError("m").stack) == (
        "Error",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("a",), "The package a is not installed, and nothing was to be installed.\nInstall it: do x"),
        (("a", "b"), "The packages a, b are not installed, and nothing was to be installed.\nInstall them: do x"),
    ],
)
def test_missing_packages(names: tuple[str, ...], text: str) -> None:
    """The message names the packages, and the fix the command."""
    error = errors.PackageMissingError(names, "do x")

    assert str(error) == text
    assert (error.names, error.command) == (names, "do x")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (OSError(2, "No such file", "a"), "No such file: 'a'"),
        (ValueError("[Errno -2] x"), "x"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_fault_in_words(fault: Exception, text: str) -> None:
    """The number of an operating system's error is left out; without a message, the class is named."""
    assert errors.describe_fault(fault) == text


@pytest.mark.parametrize(("count", "is_listed"), [(20, True), (21, False)])
def test_the_number_of_words_in_a_suggestion(count: int, is_listed: bool) -> None:
    """Without a near word, up to 20 known words are listed, and more are not."""
    words = [f"{number:03}" for number in range(count)]

    assert errors.did_you_mean("zzzzz", words) == (f"Known: {', '.join(words)}." if is_listed else "")


def test_counts() -> None:
    """Numbers have separators, and the noun its plural."""
    numbers = (0, 1, 2, 2000)
    assert [errors.format_count(each, "line") for each in numbers] == ["0 lines", "1 line", "2 lines", "2,000 lines"]


def test_near_words_are_suggested() -> None:
    """At most three near words are suggested, in any case; an alias wins over near words."""
    known: list[str] = ["aaab", "aaac", "aaad", "aaae"]
    aliases: dict[str, str] = {"js": "node"}

    assert errors.did_you_mean("AAAA", known).count(" or ") == 2
    assert errors.did_you_mean("JS", ["node", "jss"], aliases=aliases) == "Did you mean node?"
    assert errors.did_you_mean("js", ["node", "jss"]) == "Did you mean jss?"
