"""The options of `%%pdstep` as data, for the parser, completion and `%%pdstep?`."""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.model import LANGUAGES


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
