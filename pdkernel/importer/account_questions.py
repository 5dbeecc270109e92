"""
Whose account is meant by an account id in a synced file.

Knows that such a file holds ids only, and that nobody but a person can say whose they are: the same id stands for the
external user's account in one workflow and for one's own in the next. Asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pdkernel.definition import EXTERNAL_USER, UNANSWERED, AccountChoice, Sidecar, SyncedFolder, get_explicit_app
from pdkernel.model import AppBinding, Step, Workflow

AccountAnswer = str
"""`external_user`, `unanswered`, or the id of an account of one's own."""
BulkAnswer = Literal["own", "external-user"]
PropLocation = tuple[str, str]
"""A step and its app prop."""


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """
    Whose account is meant by an id.

    Attributes:
        app: The app's slug.
        account_id: The id, `apn_...`.
        locations: Where it stands: steps and props.
    """

    app: str
    account_id: str
    locations: tuple[PropLocation, ...]


def find_known_choices(synced: SyncedFolder, earlier_sidecar: Sidecar | None) -> dict[PropLocation, AccountChoice]:
    """
    What is answered already: by the folder's `pdkernel.yaml`, by the one of an *earlier_sidecar* import, or needs no answer.

    A prop whose file holds no id is the external user's: that assumes no account of one's own.
    """
    found: dict[PropLocation, AccountChoice] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        held = synced.accounts.get(place)
        said = [_get_choice(sidecar, place) for sidecar in (earlier_sidecar, synced.sidecar)]
        known = next((choice for choice in said if choice is not None and choice.account != UNANSWERED), None)
        if known is not None:
            found[place] = known
        elif held is None and not any(said):
            found[place] = AccountChoice(EXTERNAL_USER)
    return found


def _get_choice(sidecar: Sidecar | None, place: PropLocation) -> AccountChoice | None:
    step = sidecar.steps.get(place[0]) if sidecar is not None else None
    return step.accounts.get(place[1]) if step is not None else None


def build_questions(synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice]) -> tuple[AccountQuestion, ...]:
    """What is not *known*, a question for each app and id."""
    asked: dict[tuple[str, str], list[PropLocation]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        if place not in known:
            asked.setdefault((app.app, synced.accounts.get(place) or ""), []).append(place)
    return tuple(AccountQuestion(app, held, tuple(places)) for (app, held), places in asked.items())


def answer_questions(answer: BulkAnswer, questions: Iterable[AccountQuestion]) -> dict[tuple[str, str], AccountAnswer]:
    """One answer for all of *questions*, by app and id: the external user's, or an account of one's own of the same id."""
    return {
        (question.app, question.account_id): question.account_id or UNANSWERED if answer == "own" else EXTERNAL_USER
        for question in questions
    }


def build_choices(
    synced: SyncedFolder, known: Mapping[PropLocation, AccountChoice], answers: Mapping[tuple[str, str], AccountAnswer]
) -> dict[str, dict[str, AccountChoice]]:
    """By step and prop, whose account it is, with the id that the synced file holds; what no one answered says so."""
    made: dict[str, dict[str, AccountChoice]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        held = synced.accounts.get(place)
        choice = known.get(place)
        account = choice.account if choice is not None else answers.get((app.app, held or ""), UNANSWERED)
        kept = held or (choice.synced if choice is not None else None)
        slug = get_explicit_app(app, step.uses)
        made.setdefault(step.name, {})[app.prop] = AccountChoice(account, slug, kept if kept != account else None)
    return made


def apply_choices(workflow: Workflow, choices: Mapping[str, Mapping[str, AccountChoice]]) -> Workflow:
    """*workflow* with the accounts of *choices*; what is unanswered has none."""
    return replace(workflow, steps=tuple(_apply_to_step(step, choices.get(step.name, {})) for step in workflow.steps))


def _apply_to_step(step: Step, made: Mapping[str, AccountChoice]) -> Step:
    apps = []
    for app in step.apps:
        choice = made.get(app.prop)
        account = None if choice is None or choice.account in (EXTERNAL_USER, UNANSWERED) else choice.account
        apps.append(replace(app, account=account))
    return replace(step, apps=tuple(apps))


def _bindings(workflow: Workflow) -> Iterable[tuple[Step, AppBinding]]:
    return ((step, app) for step in workflow.steps for app in step.apps)
