"""
The options of `%%pdstep`, as data.

Knows names, placeholders, help and choices, for the parser, completion and `%%pdstep?` alike.
"""

from __future__ import annotations

from dataclasses import dataclass

from pdkernel.model import LANGUAGES


@dataclass(frozen=True, slots=True)
class Option:
    """
    One option.

    Attributes:
        flag: As written, `--lang`.
        metavar: What follows it, or None if nothing does.
        help: One sentence.
        choices: The values it takes, or empty for any.
        repeatable: Whether it may stand several times.
    """

    flag: str
    metavar: str | None
    help: str
    choices: tuple[str, ...] = ()
    repeatable: bool = False


OPTIONS: tuple[Option, ...] = (
    Option("--lang", "LANGUAGE", "The language of the code (default: python).", choices=LANGUAGES),
    Option(
        "--app",
        "[PROP:]SLUG[=ACCOUNT]",
        "An app that the step uses: the external user's account, or an account of your own (apn_...).",
        repeatable=True,
    ),
    Option("--data-store", "PROP[=STORE]", "A data store that the step uses.", repeatable=True),
    Option(
        "--prop",
        "NAME=VALUE",
        "A prop's value: JSON, else text; may hold {{ }}, in quotes if it holds spaces.",
        repeatable=True,
    ),
    Option("--uses", "KEY@VERSION", "Run a pre-built action; the cell's body is its props as YAML."),
    Option("--timeout", "SECONDS", "The step's own time limit (default: the workflow's)."),
    Option("--disabled", None, "Keep the step, do not run it."),
    Option("--debug", None, "Run a Python step in the kernel, for the debugger."),
    Option("--no-run", None, "Register the step without running it now."),
)

FLAGS: tuple[str, ...] = tuple(option.flag for option in OPTIONS)

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
"""What people call a language, and what it is called here; used in messages only."""
