"""
Whose account is meant by an account id in a synced file.

Knows that such a file holds ids only, and that nobody but a person can say whose they are: the same id stands for the
external user's account in one workflow and for one's own in the next. Asks nobody itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pdkernel.definition import EXTERNAL_USER, UNANSWERED, AccountChoice, Sidecar, Synced, app_beside_account
from pdkernel.model import AppBinding, Step, Workflow

Answer = str
"""`external_user`, `unanswered`, or the id of an account of one's own."""
AllAnswers = Literal["own", "external-user"]
Place = tuple[str, str]
"""A step and its app prop."""


@dataclass(frozen=True, slots=True)
class AccountQuestion:
    """
    Whose account is meant by an id.

    Attributes:
        app: The app's slug.
        synced: The id, `apn_...`.
        places: Where it stands: steps and props.
    """

    app: str
    synced: str
    places: tuple[Place, ...]


def known_choices(synced: Synced, earlier: Sidecar | None) -> dict[Place, AccountChoice]:
    """
    What is answered already: by the folder's `pdkernel.yaml`, by the one of an *earlier* import, or needs no answer.

    A prop whose file holds no id is the external user's: that assumes no account of one's own.
    """
    found: dict[Place, AccountChoice] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        held = synced.accounts.get(place)
        said = [_said(sidecar, place) for sidecar in (earlier, synced.sidecar)]
        known = next((choice for choice in said if choice is not None and choice.account != UNANSWERED), None)
        if known is not None:
            found[place] = known
        elif held is None and not any(said):
            found[place] = AccountChoice(EXTERNAL_USER)
    return found


def _said(sidecar: Sidecar | None, place: Place) -> AccountChoice | None:
    step = sidecar.steps.get(place[0]) if sidecar is not None else None
    return step.accounts.get(place[1]) if step is not None else None


def questions(synced: Synced, known: Mapping[Place, AccountChoice]) -> tuple[AccountQuestion, ...]:
    """What is not *known*, a question for each app and id."""
    asked: dict[tuple[str, str], list[Place]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        if place not in known:
            asked.setdefault((app.app, synced.accounts.get(place) or ""), []).append(place)
    return tuple(AccountQuestion(app, held, tuple(places)) for (app, held), places in asked.items())


def answer_all(how: AllAnswers, asked: Iterable[AccountQuestion]) -> dict[tuple[str, str], Answer]:
    """One answer for all of *asked*, by app and id: the external user's, or an account of one's own of the same id."""
    return {
        (question.app, question.synced): question.synced or UNANSWERED if how == "own" else EXTERNAL_USER
        for question in asked
    }


def choices(
    synced: Synced, known: Mapping[Place, AccountChoice], answers: Mapping[tuple[str, str], Answer]
) -> dict[str, dict[str, AccountChoice]]:
    """By step and prop, whose account it is, with the id that the synced file holds; what no one answered says so."""
    made: dict[str, dict[str, AccountChoice]] = {}
    for step, app in _bindings(synced.workflow):
        place = (step.name, app.prop)
        held = synced.accounts.get(place)
        choice = known.get(place)
        account = choice.account if choice is not None else answers.get((app.app, held or ""), UNANSWERED)
        kept = held or (choice.synced if choice is not None else None)
        slug = app_beside_account(app, step.uses)
        made.setdefault(step.name, {})[app.prop] = AccountChoice(account, slug, kept if kept != account else None)
    return made


def answered(workflow: Workflow, made: Mapping[str, Mapping[str, AccountChoice]]) -> Workflow:
    """*workflow* with the accounts of *made*; what is unanswered has none."""
    return replace(workflow, steps=tuple(_answered(step, made.get(step.name, {})) for step in workflow.steps))


def _answered(step: Step, made: Mapping[str, AccountChoice]) -> Step:
    apps = []
    for app in step.apps:
        choice = made.get(app.prop)
        account = None if choice is None or choice.account in (EXTERNAL_USER, UNANSWERED) else choice.account
        apps.append(replace(app, account=account))
    return replace(step, apps=tuple(apps))


def _bindings(workflow: Workflow) -> Iterable[tuple[Step, AppBinding]]:
    return ((step, app) for step in workflow.steps for app in step.apps)
