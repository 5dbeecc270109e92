"""
The errors a person can meet, each one a small document: what, why, what to do.

Knows codes, wording and exit statuses. Knows nothing of HTTP, notebooks or processes.

    PdkernelError                      code, message, fix, exit_status
    ├─ DefinitionError            2    the workflow is wrong; its author mends the notebook
    │  ├─ NotebookError                not a notebook, or not a workflow folder
    │  ├─ DirectiveError               a `%%pdstep` or `%%pdworkflow` cell cannot be read
    │  ├─ ExpressionError              a `{{ }}` that never ends, or holds no JavaScript expression
    │  ├─ StepNameError                not usable as `steps.<name>`
    │  ├─ DuplicateStepError           two steps of one name
    │  ├─ UnknownStepError             a step is named that the workflow does not have
    │  ├─ StepOrderError               a step reads the exports of a step below it
    │  ├─ EntryPointError              no `handler`, no default export
    │  ├─ PackageNameError             a step asks for a package by what names none
    │  ├─ UnsupportedError             a feature that this version does not run
    │  ├─ ActionNotFoundError          no source here has that action; says what would run it
    │  │  └─ ActionVersionError        it has another version of it
    │  └─ ActionPropsError             a required prop is missing, or a built-in action does not know one
    ├─ RequestError               2    the call is wrong; the caller mends the request
    │  ├─ EventError                   not an event; carries line and column
    │  ├─ EgressModeError              not a mode for outside calls
    │  ├─ RecordingError               a file of recorded calls cannot be used; carries the line
    │  ├─ VariableMissingError         an environment variable that no one has set
    │  ├─ PackageMissingError          packages of steps are not installed, and may not be now
    │  ├─ AccountExistsError           an account id that is taken
    │  ├─ LicenceError                 a licence that no one has accepted here
    │  ├─ ConnectSettingsError         credentials of a Connect project are missing
    │  ├─ StoreNotFoundError           a data store that nothing was written to
    │  └─ EndUserError                 the four that Pipedream documents, its words first
    │     ├─ ExternalUserRequiredError
    │     ├─ ExternalUserNotFoundError
    │     ├─ AccountNotFoundError
    │     └─ ProductionPlanError
    ├─ StepError                  1    the step's own code failed
    │  ├─ StepTimeoutError
    │  ├─ ExportNotJSONError           names the path inside the value
    │  ├─ PayloadLimitError            event, exports and logs of a run are more than it may carry
    │  ├─ StoreValueError              a data store was given a key, value or time to live that it cannot hold
    │  ├─ StepMemoryError              the step held more memory than it may
    │  ├─ StepDiedError                the process ended: exit, signal, memory
    │  ├─ ProtocolError                the step's process sent a reply that is not in the protocol
    │  ├─ PackageInstallError          a package that the step imports cannot be installed
    │  └─ EgressRefusedError           an outside call that nothing may answer
    └─ HostError                  3    our side failed
       ├─ InvokeError                  an endpoint cannot be reached, or does not answer in time
       ├─ InterpreterMissingError 2    no Node.js; says how to get one
       ├─ ActionSourceError       2    a source of actions cannot be reached: npm, Connect
       └─ ProjectError                 the project's folder or database cannot be used

No error ever holds a credential, a variable's value or a header.
"""

from __future__ import annotations

from typing import ClassVar

CONNECT_PREFIX = "Pipedream Connect Error: "
"""How the platform starts the text of an end-user error (its Connect documentation)."""


class PdkernelError(Exception):
    """
    Something that a person can mend, or be told of.

    Attributes:
        code: A stable word for programs, the same in every release.
        message: What happened and why, in one or a few lines.
        fix: What to do next, or the empty string.
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
    The workflow is wrong: its author mends the notebook or the folder.

    Attributes:
        step: The step concerned, or None.
        line: The line in that step's cell (first line of the cell is 1), or None.
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


class DirectiveError(DefinitionError):
    """A `%%pdstep` line or a `%%pdworkflow` cell cannot be read."""

    code = "directive"


class ExpressionError(DefinitionError):
    """
    A `{{ }}` never ends, is empty, or holds something that is not one JavaScript expression.

    Attributes:
        path: Of the value that holds it, inside the step's props; empty if it is not known.
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
    """Two steps have one name."""

    code = "duplicate_step"


class UnknownStepError(DefinitionError):
    """A step is named that the workflow does not have."""

    code = "unknown_step"


class StepOrderError(DefinitionError):
    """A step reads the exports of a step that stands below it."""

    code = "step_order"


class EntryPointError(DefinitionError):
    """A code cell has no `handler(pd)` or no default export."""

    code = "entry_point"


class PackageNameError(DefinitionError):
    """A step asks for a package by a path, a URL, a file or another text that does not name a package."""

    code = "package_name"


class UnsupportedError(DefinitionError):
    """The workflow asks for something that this version does not run."""

    code = "unsupported"


class ActionNotFoundError(DefinitionError):
    """No source of this project has the action; the message names the nearest and what would run it."""

    code = "action_not_found"


class ActionVersionError(ActionNotFoundError):
    """The action is there in another version than the one asked for."""

    code = "action_version"


class ActionPropsError(DefinitionError):
    """A required prop of an action has no value, or a built-in action does not know a prop that is given."""

    code = "action_props"


class RequestError(PdkernelError):
    """The call is wrong: the caller mends the request."""

    code = "request"
    exit_status = 2


class EventError(RequestError):
    """
    The text is not an event.

    Attributes:
        line: 1-based line of the fault, or None.
        column: 1-based column of the fault, or None.
    """

    code = "event"

    def __init__(self, message: str, *, fix: str = "", line: int | None = None, column: int | None = None) -> None:
        super().__init__(message, fix=fix)
        self.line = line
        self.column = column


class EgressModeError(RequestError):
    """The text after `--egress` or `%pdegress` is not a mode."""

    code = "egress_mode"


class RecordingError(RequestError):
    """
    A file of recorded calls cannot be used.

    Attributes:
        line: 1-based line of the fault, or None.
    """

    code = "recording"

    def __init__(self, message: str, *, fix: str = "", line: int | None = None) -> None:
        super().__init__(message, fix=fix)
        self.line = line


class VariableMissingError(RequestError):
    """
    A step reads environment variables that no one has set.

    Attributes:
        names: The variables, sorted.
    """

    code = "variable_missing"

    def __init__(self, message: str, *, names: tuple[str, ...], fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.names = names


class PackageMissingError(RequestError):
    """
    Packages that steps import are not installed, and the caller said to install none.

    Attributes:
        names: The packages, sorted.
        command: Installs them.
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


class AccountExistsError(RequestError):
    """An account of that id exists already."""

    code = "account_exists"


class LicenceError(RequestError):
    """Components come under a licence of their own, which this project has not accepted."""

    code = "licence"


class ConnectSettingsError(RequestError):
    """Actions are to run at Pipedream Connect, and the environment does not say with which credentials."""

    code = "connect_settings"


class StoreNotFoundError(RequestError):
    """There is no data store of that name; names those that there are."""

    code = "store_not_found"


class EndUserError(RequestError):
    """One of the four errors that Pipedream documents for runs on behalf of an end user."""

    code = "end_user"

    def __init__(self, platform_message: str, *, fix: str, external_user_id: str | None, environment: str) -> None:
        super().__init__(CONNECT_PREFIX + platform_message, fix=fix)
        self.external_user_id = external_user_id
        self.environment = environment


class ExternalUserRequiredError(EndUserError):
    """A step uses the external user's account and the event names no external user."""

    code = "external_user_required"


class ExternalUserNotFoundError(EndUserError):
    """The event names an external user that the project does not have in that environment."""

    code = "external_user_not_found"


class AccountNotFoundError(EndUserError):
    """
    The external user has no account of an app that a step needs.

    Attributes:
        app: The app's slug.
        steps: The steps that need it.
    """

    code = "account_not_found"

    def __init__(
        self,
        platform_message: str,
        *,
        fix: str,
        external_user_id: str | None,
        environment: str,
        app: str,
        steps: tuple[str, ...],
    ) -> None:
        super().__init__(platform_message, fix=fix, external_user_id=external_user_id, environment=environment)
        self.app = app
        self.steps = steps


class ProductionPlanError(EndUserError):
    """The project's plan does not run workflows for `production` users."""

    code = "production_plan"


class StepError(PdkernelError):
    """
    A step's own code failed; recorded in the execution, not thrown through it.

    Attributes:
        name: The error's own class name, as the user's language gives it.
        line: The line in the step's cell, or None.
        stack: The user's own frames as text, with their locals, or None.
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


class PayloadLimitError(StepError):
    """The event, the exports and the logs of a run are more than it may carry along."""

    code = "payload_limit"


class StoreValueError(StepError):
    """A data store was given a key, a value or a time to live that it cannot hold."""

    code = "store_value"


class StepMemoryError(StepError):
    """The step's processes held more memory than the workflow's settings allow."""

    code = "memory"


class StepProcessExitedError(StepError):
    """The step's process ended before the step did."""

    code = "step_died"


class WorkerProtocolError(StepError):
    """The step's process sent a reply that is not in the protocol: only code that writes to pdkernel's descriptor can."""

    code = "protocol"


class PackageInstallError(StepError):
    """
    A package that the step's code imports cannot be installed.

    Attributes:
        package: The one at fault, as the code imports it (`axios@0.19.2`), or None if it is no single one.
    """

    code = "package_install"

    def __init__(self, message: str, *, fix: str = "", package: str | None = None, line: int | None = None) -> None:
        super().__init__(message, name="PackageInstallError", fix=fix, line=line)
        self.package = package


class OutboundCallRefusedError(StepError):
    """An outside call that nothing may answer in this mode."""

    code = "egress_refused"


class InternalError(PdkernelError):
    """Our side failed."""

    code = "internal"
    exit_status = 3


class InvokeError(InternalError):
    """An endpoint cannot be reached, or does not answer in time."""

    code = "endpoint_unreachable"


class InterpreterMissingError(InternalError):
    """A language's interpreter is not on this machine."""

    code = "interpreter_missing"
    exit_status = 2


class ActionSourceError(InternalError):
    """A source of actions cannot be reached, or does not answer as it should."""

    code = "action_source"
    exit_status = 2


class ProjectError(InternalError):
    """The project's folder, key or database cannot be used."""

    code = "project"


def exit_status_of(code: str) -> int:
    """The exit status of the error whose code is *code*; 1 for one that a step's own code made."""
    classes = [PdkernelError]
    while classes:
        found = classes.pop()
        if found.__dict__.get("code") == code:
            return found.exit_status
        classes.extend(found.__subclasses__())
    return StepError.exit_status
