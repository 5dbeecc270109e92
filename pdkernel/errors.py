"""
The package's error classes, with their codes and exit statuses.

    PdkernelError              code, message (what happened and why), fix (what to do), exit_status
    ├─ DefinitionError    2    the workflow is wrong: its author corrects the notebook or the folder
    ├─ RequestError       2    the call is wrong: the caller corrects the request
    │  └─ EndUserError         the four errors that Pipedream documents, with its message
    ├─ StepError          1    the step's own code failed
    └─ InternalError      3    pdkernel failed

A class that only one module raises and no other module catches is in that module. No error contains a credential, a
variable's value or a header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

CONNECT_PREFIX = "Pipedream Connect Error: "
"""The prefix of the platform's end-user errors (its Connect documentation)."""


_MAX_LISTED_WORDS = 20
"""The number of words that a suggestion may list."""


def did_you_mean(
    word: str, known: Iterable[str], *, aliases: Mapping[str, str] | None = None, lists_all: bool = True
) -> str:
    """
    Return a sentence that suggests the nearest known words, or all known words if they are few; else the empty string.

    Args:
        word: The unknown word.
        known: The known words.
        aliases: Other common names, and the known word for each.
        lists_all: Whether the known words may be listed if none is near.
    """
    import difflib

    words = list(known)
    by_lower = {each.lower(): each for each in reversed(words)}
    meant = (aliases or {}).get(word.lower())
    near = [meant] if meant else [by_lower[each] for each in difflib.get_close_matches(word.lower(), by_lower)]
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known: {', '.join(words)}." if lists_all and 0 < len(words) <= _MAX_LISTED_WORDS else ""


def format_count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 line`, `2,000 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def describe_fault(fault: BaseException) -> str:
    """Return the message of *fault*, without the number of an operating system's error, or the name of its class."""
    return re.sub(r"\[Errno -?\d+\] ", "", str(fault)) or type(fault).__name__


class PdkernelError(Exception):
    """
    The base of all errors that are shown to a person.

    Attributes:
        code: A stable code for programs, the same in every release.
        message: What happened and why, in one or a few lines.
        fix: What to do, or the empty string.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 3

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n{self.fix}" if self.fix else self.message


class DefinitionError(PdkernelError):
    """
    The workflow is wrong: its author corrects the notebook or the folder.

    Attributes:
        step: The step at fault, or None.
        line: The line of the step's cell (the first line is 1), or None.
    """

    code = "definition"
    exit_status = 2

    def __init__(self, message: str, *, fix: str = "", step: str | None = None, line: int | None = None) -> None:
        super().__init__(message, fix=fix)
        self.step = step
        self.line = line


class NotebookError(DefinitionError):
    """The file is not a notebook, or the folder is not a workflow folder."""

    code = "not_a_workflow"


class ArchiveError(NotebookError):
    """The archive of exported workflows cannot be read: it is damaged, too large, or not one that Pipedream makes."""

    code = "archive"


class DirectiveError(DefinitionError):
    """A `%%pdstep` line or a `%%pdworkflow` cell cannot be read."""

    code = "directive"


class ExpressionError(DefinitionError):
    """
    A `{{ }}` never ends, is empty, or is not one JavaScript expression.

    Attributes:
        path: The path of the value inside the step's props; empty if unknown.
    """

    code = "expression"

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        step: str | None = None,
        line: int | None = None,
        path: tuple[str | int, ...] = (),
    ) -> None:
        super().__init__(message, fix=fix, step=step, line=line)
        self.path = path


class StepNameError(DefinitionError):
    """A step's name is not usable as `steps.<name>`."""

    code = "step_name"


class DuplicateStepError(DefinitionError):
    """Two steps have the same name."""

    code = "duplicate_step"


class UnknownStepError(DefinitionError):
    """The workflow does not have the named step."""

    code = "unknown_step"


class StepOrderError(DefinitionError):
    """A step reads the exports of a step below it."""

    code = "step_order"


class BlockError(DefinitionError):
    """A block or branch is missing or wrong, or a cell is at a place where its block has ended."""

    code = "block"


class EntryPointError(DefinitionError):
    """A code cell has no `handler(pd)` or no default export."""

    code = "entry_point"


class PackageNameError(DefinitionError):
    """A step requires a package by a path, a URL, a file or another text that is not a package name."""

    code = "package_name"


class UnsupportedError(DefinitionError):
    """The workflow needs a feature that this version does not run."""

    code = "unsupported"


class ActionNotFoundError(DefinitionError):
    """No source of the project has the action; the message suggests similar actions and other sources."""

    code = "action_not_found"


class ActionVersionError(ActionNotFoundError):
    """The sources have the action only in another version."""

    code = "action_version"


class ActionPropsError(DefinitionError):
    """A required prop of an action has no value, or a built-in action does not have a given prop."""

    code = "action_props"


class RequestError(PdkernelError):
    """The call is wrong: the caller corrects the request."""

    code = "request"
    exit_status = 2


class EventError(RequestError):
    """
    The text is not an event.

    Attributes:
        line: 1-based line of the error, or None.
        column: 1-based column of the error, or None.
    """

    code = "event"

    def __init__(self, message: str, *, fix: str = "", line: int | None = None, column: int | None = None) -> None:
        super().__init__(message, fix=fix)
        self.line = line
        self.column = column


class PackageMissingError(RequestError):
    """
    Packages that steps import are not installed, and the caller did not allow installing.

    Attributes:
        names: The packages, sorted.
        command: The command that installs the packages.
    """

    code = "package_missing"

    def __init__(self, names: tuple[str, ...], command: str) -> None:
        several = len(names) > 1
        super().__init__(
            f"The package{'s' if several else ''} {', '.join(names)} {'are' if several else 'is'} not installed, "
            "and nothing was to be installed.",
            fix=f"Install {'them' if several else 'it'}: {command}",
        )
        self.names = names
        self.command = command


class LicenceError(RequestError):
    """The project has not accepted the licence of Pipedream's components."""

    code = "licence"


class ConnectSettingsError(RequestError):
    """Actions run at Pipedream Connect, and the environment does not set the credentials for it."""

    code = "connect_settings"


class EndUserError(RequestError):
    """One of the four errors that Pipedream documents for runs on behalf of an end user."""

    code = "end_user"

    def __init__(self, platform_message: str, *, fix: str) -> None:
        super().__init__(CONNECT_PREFIX + platform_message, fix=fix)


class ExternalUserRequiredError(EndUserError):
    """A step uses the external user's account and the event names no external user."""

    code = "external_user_required"


class ExternalUserNotFoundError(EndUserError):
    """The event names an external user that the project does not have in that environment."""

    code = "external_user_not_found"


class AccountNotFoundError(EndUserError):
    """The external user has no account of an app that a step needs."""

    code = "account_not_found"


class ProductionPlanError(EndUserError):
    """The project's plan does not run workflows for `production` users."""

    code = "production_plan"


class StepError(PdkernelError):
    """
    A step's own code failed; the execution records the error instead of raising it.

    Attributes:
        name: The error's class name in the step's language.
        line: The line of the step's cell, or None.
        stack: The frames of the step's own code with their local variables, as text, or None.
    """

    code = "step_failed"
    exit_status = 1

    def __init__(
        self, message: str, *, name: str = "Error", line: int | None = None, stack: str | None = None, fix: str = ""
    ) -> None:
        super().__init__(message, fix=fix)
        self.name = name
        self.line = line
        self.stack = stack


class StepTimeoutError(StepError):
    """The step ran longer than the workflow's or its own time limit."""

    code = "timeout"


class ExportNotJSONError(StepError):
    """An export cannot be written as JSON; the message names the path inside the value."""

    code = "export_not_json"


class StoreValueError(StepError):
    """A data store cannot hold the key, value or time to live that a step wrote."""

    code = "store_value"


class StepProcessExitedError(StepError):
    """The worker ended before the step did."""

    code = "step_died"


class PackageInstallError(StepError):
    """
    A package that the step's code imports cannot be installed.

    Attributes:
        package: The package at fault, as the code imports it (`axios@0.19.2`), or None for several packages.
    """

    code = "package_install"

    def __init__(self, message: str, *, fix: str = "", package: str | None = None, line: int | None = None) -> None:
        super().__init__(message, name="PackageInstallError", fix=fix, line=line)
        self.package = package


class OutboundCallRefusedError(StepError):
    """The outbound policy refused a call of the step."""

    code = "egress_refused"


class InternalError(PdkernelError):
    """Pdkernel itself failed."""

    code = "internal"
    exit_status = 3


class InterpreterMissingError(InternalError):
    """A language's interpreter is not installed."""

    code = "interpreter_missing"
    exit_status = 2


class ActionSourceError(InternalError):
    """A source of actions cannot be reached, or its answer is not valid."""

    code = "action_source"
    exit_status = 2


class ProjectError(InternalError):
    """The project's folder, key or database cannot be used."""

    code = "project"


class DamagedRecordError(ProjectError):
    """One record of the project's database cannot be read; the others can."""


class DatabaseUnreachableError(ProjectError):
    """The server of the project's database does not answer now; a served run waits for it."""

    code = "database_unreachable"


class ExecutorLostError(ProjectError):
    """Other processes have taken this one for dead, so it accepts nothing until it has begun anew; nothing was stored."""

    code = "executor_lost"

    def __init__(self) -> None:
        super().__init__(
            "Nothing was stored: this process could not reach the project's database in time, so others took it for dead.",
            fix="Try again in some seconds.",
        )


class TablesChangedError(ProjectError):
    """A newer version has changed the tables that this process uses, so it accepts nothing until it is restarted; nothing was stored."""

    code = "tables_changed"


def exit_status_of(code: str) -> int:
    """
    Return the exit status of the error class with *code*; 1 for a code that a step's own code set.

    An error in a step's process may have the code of a refusal: then the status is that of the refusal.
    """
    classes, found = [PdkernelError], {StepError.exit_status}
    while classes:
        kind = classes.pop()
        if kind.__dict__.get("code") == code:
            found.add(kind.exit_status)
        classes.extend(kind.__subclasses__())
    return max(found)
