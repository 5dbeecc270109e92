"""
Account choices for the account ids in a synced file, as questions and answers.

Such a file holds ids only. The same id can stand for the external user's account in one workflow and for your own account
in another, so a person must decide. The caller asks the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pdkernel.files.definition import EXTERNAL_USER, UNANSWERED, AccountChoice, Sidecar, SyncedFolder, get_explicit_app
from pdkernel.model import AppBinding, Step, Workflow

AccountAnswer = str
"""`external_user`, `unanswered`, or the id of your own account."""
BulkAnswer = Literal["own", "external-user"]
PropLocation = tuple[str, str]
"""A step and its app prop."""


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """
    A question: does an account id stand for your own account or the external user's?

    Attributes:
        app: The app's slug.
        account_id: The id, `apn_...`.
        locations: The steps and props with this id.
    """

    app: str
    account_id: str
    locations: tuple[PropLocation, ...]


def find_known_choices(synced: SyncedFolder, earlier_sidecar: Sidecar | None) -> dict[PropLocation, AccountChoice]:
    """
    Choices without a question: from the folder's `pdkernel.yaml`, from an earlier import, or because the file has no id.

    A prop of the file without an id gets the external user's account, so that your own account is never assumed.
    """
    found: dict[PropLocation, AccountChoice] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        account_id = synced.accounts.get(place)
        choices = [_get_choice(sidecar, place) for sidecar in (earlier_sidecar, synced.sidecar)]
        known = next((choice for choice in choices if choice is not None and choice.account != UNANSWERED), None)
        if known is not None:
            found[place] = known
        elif place in synced.accounts and account_id is None and not any(choices):
            found[place] = AccountChoice(EXTERNAL_USER)
    return found


def _get_choice(sidecar: Sidecar | None, place: PropLocation) -> AccountChoice | None:
    step = sidecar.steps.get(place[0]) if sidecar is not None else None
    return step.accounts.get(place[1]) if step is not None else None


def build_questions(synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice]) -> tuple[AccountQuestion, ...]:
    """One question for each app and id among the props that are not *known*."""
    locations: dict[tuple[str, str], list[PropLocation]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        if place not in known:
            locations.setdefault((app.app, synced.accounts.get(place) or ""), []).append(place)
    return tuple(AccountQuestion(app, account_id, tuple(places)) for (app, account_id), places in locations.items())


def answer_questions(
    answer: BulkAnswer,
    questions: Iterable[AccountQuestion],
    *,
    find_own_accounts: Callable[[str], Sequence[str]] = lambda _: (),
) -> dict[tuple[str, str], AccountAnswer]:
    """
    The same answer for all *questions*, by app and id: the external user's account, or your own with that id.

    Without an id, your own account is the only one that *find_own_accounts* returns for the app, else it is unanswered.
    """
    found: dict[tuple[str, str], AccountAnswer] = {}
    for question in questions:
        own = question.account_id
        if not own and answer == "own":
            accounts = find_own_accounts(question.app)
            own = accounts[0] if len(accounts) == 1 else UNANSWERED
        found[question.app, question.account_id] = own if answer == "own" else EXTERNAL_USER
    return found


def build_choices(
    synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice], answers: Mapping[tuple[str, str], AccountAnswer]
) -> dict[str, dict[str, AccountChoice]]:
    """The choices by step and prop, with the id of the synced file; without an answer a choice is `unanswered`."""
    choices: dict[str, dict[str, AccountChoice]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        account_id = synced.accounts.get(place)
        choice = known.get(place)
        account = choice.account if choice is not None else answers.get((app.app, account_id or ""), UNANSWERED)
        kept = account_id or (choice.synced if choice is not None else None)
        slug = get_explicit_app(app, step.uses)
        choices.setdefault(step.name, {})[app.prop] = AccountChoice(account, slug, kept if kept != account else None)
    return choices


def apply_choices(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> Workflow:
    """*workflow* with the accounts of *choices*; an unanswered prop has no account."""
    return replace(workflow, steps=tuple(_apply_to_step(step, choices.get(step.name, {})) for step in workflow.steps))


def _apply_to_step(step: Step, choices: Mapping[str, AccountChoice]) -> Step:
    apps = []
    for app in step.apps:
        choice = choices.get(app.prop)
        account = None if choice is None or choice.account in (EXTERNAL_USER, UNANSWERED) else choice.account
        apps.append(replace(app, account=account))
    return replace(step, apps=tuple(apps))


def _bindings(workflow: Workflow) -> Iterable[tuple[Step, AppBinding]]:
    return ((step, app) for step in workflow.steps for app in step.apps)
