"""
What `pdkernel import` asks on a terminal: whose account an id means, and what Git does not hold of a trigger.

Knows how to ask; every question has an answer that decides nothing. Each account and each trigger is asked for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pdkernel.cli.app import CliContext
from pdkernel.errors import PdkernelError

if TYPE_CHECKING:
    from pdkernel.identity import Directory
    from pdkernel.importer import AccountQuestion
    from pdkernel.model import HttpAuth, ResponseMode, Trigger

EXTERNAL_USER = "external_user"
UNANSWERED = "unanswered"
_PLACES = 5


class ImportPrompts:
    """
    The questions of one import.

    Args:
        state: Of the command; its project holds the accounts of one's own.
        root: What is imported, where no project is made.
        workflows: How many: of many, triggers are asked for only if that is wanted.
    """

    def __init__(self, state: CliContext, *, root: Path, workflows: int) -> None:
        self._state = state
        self._root = root
        self._workflows = workflows
        self._answers: dict[tuple[str, str], str] = {}
        self._triggers: dict[str, Trigger | None] = {}

    def ask_accounts(self, questions: Sequence[AccountQuestion]) -> dict[tuple[str, str], str]:
        """The answers to *questions*, by app and id; those that were given before in this import are not asked again."""
        for question in questions:
            key = (question.app, question.account_id)
            if key not in self._answers:
                self._answers[key] = self._account(question)
        return self._answers

    def _account(self, question: AccountQuestion) -> str:
        while True:
            choices = self._choices(question)
            self._say_choices(question, choices)
            number = self._number("Whose account is meant", len(choices))
            answer = choices[number - 1][0]
            if answer is not None:
                return answer
            try:
                return self._create(question)
            except PdkernelError as error:
                click.echo(f"Error: {error}", err=True)

    def _choices(self, question: AccountQuestion) -> list[tuple[str | None, str]]:
        """Answers and words for them; None is an account that is to be made."""
        choices: list[tuple[str | None, str]] = [(EXTERNAL_USER, "the external user's account")]
        own = self._directory.accounts(app=question.app, own=True) if self._directory is not None else ()
        choices += [(account.id, f"your own {account.id}  {account.name}".rstrip()) for account in own]
        there = question.account_id in {account.id for account in own}
        if self._directory is not None and question.account_id and not there:
            choices.append((None, f"your own, which is added now under the id {question.account_id}"))
        return [*choices, (UNANSWERED, "decide later: it can be exported, not run")]

    @staticmethod
    def _say_choices(question: AccountQuestion, choices: Sequence[tuple[str | None, str]]) -> None:
        used = [f"{step}.{prop}" for step, prop in question.locations]
        more = f" and {len(used) - _PLACES} more" if len(used) > _PLACES else ""
        click.echo(
            f"{question.app}, {question.account_id or 'no id'}: used by {', '.join(used[:_PLACES])}{more}", err=True
        )
        for number, (_, words) in enumerate(choices, start=1):
            click.echo(f"  {number}  {words}", err=True)

    @staticmethod
    def _number(words: str, highest: int) -> int:
        return int(click.prompt(words, default=highest, type=click.IntRange(1, highest), err=True))

    def _create(self, question: AccountQuestion) -> str:
        names = click.prompt("Names of its credentials, with commas", default="oauth_access_token", err=True)
        credentials = {
            name: click.prompt(name, hide_input=True, err=True)
            for name in (part.strip() for part in names.split(","))
            if name
        }
        assert self._directory is not None, "only then is an account to be made among the choices"
        account = self._directory.add_account(
            app=question.app,
            credentials=credentials,
            external_user_id=None,
            environment="development",
            account_id=question.account_id,
            name=None,
        )
        return str(account.id)

    @cached_property
    def _directory(self) -> Directory | None:
        """Users and accounts of the project, or None where opening it would make one inside what is imported."""
        here = Path.cwd().resolve()
        if not self._state.has_project() and here.is_relative_to(self._root.resolve()):
            return None
        return self._state.open_directory()

    @cached_property
    def _asks_triggers(self) -> bool:
        if self._workflows == 1:
            return True
        return bool(click.confirm("Git does not hold the triggers' settings. Give them now", default=False, err=True))

    def ask_trigger(self, trigger: Trigger) -> Trigger | None:
        """*trigger* with the settings that Git does not hold, or None if they are to be assumed."""
        held = str(trigger.config.get("id"))
        if trigger.type == "email" or not self._asks_triggers:
            return None
        if held not in self._triggers:
            ask = {"http": self._http, "schedule": self._schedule, "source": self._source}[trigger.type]
            self._triggers[held] = ask(trigger, held)
        return self._triggers[held]

    @staticmethod
    def _http(trigger: Trigger, held: str) -> Trigger:
        auth: HttpAuth = click.prompt(
            f"HTTP trigger {held}: who may call it",
            type=click.Choice(["none", "bearer", "oauth"]),
            default="none",
            err=True,
        )
        token = None
        if auth == "bearer":
            token = click.prompt("The environment variable that holds the token", err=True)
        response: ResponseMode = click.prompt(
            "Who answers, the platform or the workflow",
            type=click.Choice(["default", "custom"]),
            default=trigger.response,
            err=True,
        )
        return replace(trigger, auth=auth, token_env=token, response=response)

    @staticmethod
    def _schedule(trigger: Trigger, held: str) -> Trigger | None:
        when = click.prompt(
            f"Schedule {held}: when, as cron or as a number of seconds (empty: not known)",
            default="",
            show_default=False,
            err=True,
        ).strip()
        if not when:
            return None
        setting = {"interval_seconds": int(when)} if when.isdigit() else {"cron": when}
        zone = click.prompt("Its time zone", default="UTC", err=True).strip()
        return replace(trigger, config={**trigger.config, **setting, "timezone": zone})

    @staticmethod
    def _source(trigger: Trigger, held: str) -> Trigger | None:
        uses = click.prompt(
            f"Event source {held}: its component, KEY@VERSION (empty: not known)",
            default="",
            show_default=False,
            err=True,
        ).strip()
        return replace(trigger, config={**trigger.config, "uses": uses}) if uses else None
