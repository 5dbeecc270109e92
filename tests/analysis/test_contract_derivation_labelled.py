"""The contract against the labelled set, by language."""

from __future__ import annotations

import pytest

from tests.analysis.labelled import cases, report, score

LEAST = {"python": 30, "node": 30}


@pytest.mark.parametrize("language", LEAST)
def test_the_labelled_set_covers_every_language(language: str) -> None:
    """Every language has at least the minimum number of cases, each with its own name."""
    names = [case.name for case in cases(language)]
    assert len(names) >= LEAST[language]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("language", LEAST)
def test_precision(language: str) -> None:
    """Precision: every fact of the contract of a step is in its labels."""
    wrong = {case.name: sorted(case.found - case.labels) for case in cases(language) if case.found - case.labels}
    assert wrong == {}
    assert score(language).precision == 1.0


@pytest.mark.parametrize("language", LEAST)
def test_recall(language: str) -> None:
    """Recall: every label of a step is in the contract."""
    missed = {case.name: sorted(case.labels - case.found) for case in cases(language) if case.labels - case.found}
    assert missed == {}
    assert score(language).recall == 1.0


def test_the_figures_are_printed_by_language(capsys: pytest.CaptureFixture[str]) -> None:
    """The report names each language with both figures."""
    for line in report():
        print(line)
    printed = capsys.readouterr().out
    assert all(language in printed for language in LEAST)
    assert printed.count("precision") == printed.count("recall") == len(LEAST)
