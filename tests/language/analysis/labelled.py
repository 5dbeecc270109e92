"""
The labelled set: typical step code, labelled by hand with the facts that the analysis must find.

`python -m tests.language.analysis.labelled` prints precision and recall by language.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pdkernel.language.analysis.contract import Contract, derive_contract
from pdkernel.model import Language, Step, Workflow

CASES = Path(__file__).with_name("cases")
LANGUAGES: tuple[Language, ...] = ("python", "node")
"""Languages whose code the contract reads."""


@dataclass(frozen=True)
class Case:
    """
    One piece of code and its labels.

    Attributes:
        language: The language of the code.
        name: The subject of the case.
        code: The step.
        labels: The facts about the code: `field body.x required`, `type body.x string`, `whole body`, `unknown event`.
    """

    language: Language
    name: str
    code: str
    labels: frozenset[str]

    @property
    def found(self) -> frozenset[str]:
        """The fields of the contract, with the types that are labelled or wrong."""
        workflow = Workflow("case", steps=(Step("case", self.language, self.code),))
        return frozenset(_said(derive_contract(workflow)))


@dataclass(frozen=True)
class Score:
    """The counts of true positives, false positives and false negatives."""

    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """The part of the found facts that is labelled."""
        return self.right / (self.right + self.wrong)

    @property
    def recall(self) -> float:
        """The part of the labelled facts that is found."""
        return self.right / (self.right + self.missed)


def cases(language: str) -> list[Case]:
    """The cases of *language*."""
    read = YAML(typ="safe").load((CASES / f"{language}.yaml").read_text(encoding="utf-8"))
    return [Case(language, each["name"], each["code"], frozenset(_labels(each))) for each in read]  # type: ignore[arg-type]


def _labels(case: dict[str, Any]) -> Iterator[str]:
    for path, words in case["fields"].items():
        need, _, type_ = words.partition(" ")
        yield f"field {path} {need}"
        if type_:
            yield f"type {path} {type_}"
    for kind in ("whole", "unknown"):
        yield from (f"{kind} {path}" for path in case.get(kind, ()))


def _said(contract: Contract) -> Iterator[str]:
    for field in contract.fields:
        yield f"field {field.path} {'required' if field.required else 'optional'}"
        yield from (f"type {field.path} {name}" for name in field.types)
    yield from (f"whole {use.path}" for use in contract.passed_on)
    yield from (f"unknown {use.path}" for use in contract.dynamic)


def score(language: str) -> Score:
    """The score of the contract on the cases of *language*."""
    pairs = [(case.found, case.labels) for case in cases(language)]
    return Score(
        right=sum(len(found & labels) for found, labels in pairs),
        wrong=sum(len(found - labels) for found, labels in pairs),
        missed=sum(len(labels - found) for found, labels in pairs),
    )


def report() -> Iterator[str]:
    """A line for each language."""
    for language in LANGUAGES:
        found = score(language)
        yield (
            f"contract, {language:<6}  {len(cases(language)):>2} steps, {found.right + found.missed:>3} labels:"
            f"  precision {found.precision:.3f}  recall {found.recall:.3f}"
        )


if __name__ == "__main__":
    for line in report():
        print(line)
    if "-v" in sys.argv:
        for each in (case for language in LANGUAGES for case in cases(language)):
            for label in sorted(each.found ^ each.labels):
                print(f"{each.language}, {each.name}: {'+' if label in each.found else '-'} {label}")
