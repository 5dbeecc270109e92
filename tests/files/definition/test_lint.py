"""The lint of a workflow before it is deployed."""

from __future__ import annotations

from pathlib import Path

import pytest

from pdkernel.files.definition import (
    UNANSWERED,
    AccountChoice,
    Sidecar,
    StepSidecar,
    export_to_folder,
    lint_workflow,
    read_folder_workflow,
)
from pdkernel.files.definition.lint import Finding
from pdkernel.model import JSON, AppBinding, Step, Trigger, UnsupportedEntry, Workflow
from tests.files.definition.builders import PYTHON, synced

PROJECTS = Path(__file__).parent / "projects"


def python(*lines: str, name: str = "a", cell: int = 1) -> Step:
    """A Python step whose handler has *lines*."""
    body = "".join(f"    {line}\n" for line in lines)
    return Step(name, source=f"def handler(pd):\n{body}", line_offset=1, cell_index=cell)


def found(rule: str, *steps: Step, sidecar: Sidecar | None = None, **more: object) -> list[Finding]:
    """The findings of *rule* in a workflow of *steps*."""
    workflow = Workflow("w", steps=steps, **more)  # type: ignore[arg-type]
    return [finding for finding in lint_workflow(workflow, sidecar) if finding.rule == rule]


def test_a_finding_names_its_place(tmp_path: Path) -> None:
    """A finding has rule, step, cell, line, message and fix, and is part of the export's result."""
    step = python("return pd.steps['later']['x']")
    workflow = Workflow("w", steps=(step, python("return 1", name="later", cell=2)))

    result = export_to_folder(workflow, tmp_path / "w")

    assert result.findings == (
        Finding(
            "reference", "a", 2, 3,
            "Step a (cell 2, line 3) reads steps.later, which comes later and has not run yet.",
            "Move later above a.",
        ),
    )  # fmt: skip
    assert result.findings[0].location == "step a, line 3"
    assert result.to_json()["findings"] == [result.findings[0].to_json()]


def test_a_folders_findings_name_its_files() -> None:
    """In a synced folder, the place of a finding is a file and its line."""
    places = {
        (finding.rule, finding.location)
        for finding in lint_workflow(read_folder_workflow(PROJECTS / "nightly-report-p_xYz9876", require_code=False))
    }

    assert ("git-form", "step fetch, workflow.yaml") in places
    stale = [
        finding
        for finding in lint_workflow(read_folder_workflow(PROJECTS / "order-alerts-p_Ab12Cd3"))
        if finding.rule == "reference"
    ]
    text = (PROJECTS / "order-alerts-p_Ab12Cd3" / "workflow.yaml").read_text().splitlines()
    assert [finding.file for finding in stale] == ["workflow.yaml"]
    assert "steps.gone_since" in text[(stale[0].line or 1) - 1]


def test_an_invalid_expression_of_a_folder_has_the_line_of_its_prop(tmp_path: Path) -> None:
    """The place of an expression that cannot be read is in workflow.yaml, and the other rules are applied."""
    folder = synced(
        tmp_path / "w",
        "name: W\nsteps:\n- namespace: a\n  uses: k-x@1.0.0\n  props:\n    api_key: 0123456789\n    list:\n    - '{{steps.b'\n",
    )

    findings = lint_workflow(read_folder_workflow(folder))

    assert [(finding.rule, finding.location) for finding in findings] == [
        ("reference", "step a, workflow.yaml, line 8"),
        ("secret", "step a, workflow.yaml, line 6"),
    ]


@pytest.mark.parametrize("name", ["-x", "", "{}"])
def test_a_reference_by_an_unusual_name_is_a_finding(tmp_path: Path, name: str) -> None:
    """A key that cannot be the name of a step is reported as a missing step, at the step that reads it."""
    props = f"  props:\n    url: '{{{{steps[\"{name}\"].y}}}}'\n"
    folder = synced(tmp_path / "w", f"name: W\nsteps:\n- namespace: a\n  uses: k-x@1.0.0\n{props}")

    (finding,) = lint_workflow(read_folder_workflow(folder))

    assert finding.message == f"Step a reads steps.{name}, and the workflow has no such step."
    assert finding.location == "step a, workflow.yaml, line 6"


def test_a_finding_in_the_code_of_a_folder_names_the_entry_file(tmp_path: Path) -> None:
    """The line of a step's code belongs to its entry file, and the line of its props to workflow.yaml."""
    folder = synced(
        tmp_path / "w",
        "name: W\nsteps:\n- namespace: a\n  uses: ./a/entry.mjs\n",
        a__entry_DOT_mjs='\nimport a from "axios";\nexport default {}\n',
    )

    (finding,) = lint_workflow(read_folder_workflow(folder))

    assert (finding.rule, finding.location) == ("package", "step a, a/entry.mjs, line 2")


def test_secrets() -> None:
    """Well-known credentials and text under a credential's name are found; expressions and short words are not."""
    step = Step(
        "send",
        "node",
        uses="http-custom-request@1.1.1",
        props={
            "httpRequest": {"auth": {"type": "bearer", "token": "0123456789abcdef"}, "tab": "Auth"},
            "apiKey": "{{process.env.KEY}}",
            "password": "none",
            "text": "ghp_" + "a1" * 20,
        },
    )

    findings = found("secret", step)

    assert [finding.message.split(" holds")[0] for finding in findings] == [
        "Step send: the prop text", "The prop httpRequest.auth.token",
    ]  # fmt: skip
    assert not any("0123456789abcdef" in str(finding) or "a1a1" in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("own", "other", "says"),
    [
        ("slack", AppBinding("slack", "slack"), "step b uses the external user's.\nWrite `--app slack` without"),
        ("chat", AppBinding("slack", "slack"), "step b uses the external user's.\nWrite `--app chat:slack` without"),
        (
            "slack",
            AppBinding("github", "github"),
            "other steps use the external user's accounts.\nWrite `--app slack` ",
        ),
        ("slack", AppBinding("github", "github", "apn_2"), None),
    ],
)
def test_own_accounts(own: str, other: AppBinding, says: str | None) -> None:
    """An own account is found if other steps use the external user's; if all are own, there is no finding."""
    steps = (
        Step("a", source=PYTHON, apps=(AppBinding(own, "slack", "apn_1"),)),
        Step("b", source=PYTHON, apps=(other,)),
    )

    findings = found("own-account", *steps)

    assert [finding.step for finding in findings] == (["a"] if says else [])
    assert all(says is not None and says in f"{finding.message}\n{finding.fix}" for finding in findings)


def test_an_unanswered_account_is_found() -> None:
    """An unanswered app prop is reported as unanswered, and not as the external user's account."""
    step = Step("a", source=PYTHON, apps=(AppBinding("slack", "slack"),))
    sidecar = Sidecar(steps={"a": StepSidecar(accounts={"slack": AccountChoice(UNANSWERED)})})

    findings = lint_workflow(Workflow("W", steps=(step,)), sidecar)

    assert [(finding.rule, finding.message) for finding in findings] == [
        ("own-account", "The owner of the account for slack is not set.")
    ]
    chosen = Sidecar(steps={"a": StepSidecar(accounts={"slack": AccountChoice("external_user")})})
    assert found("own-account", step, sidecar=chosen) == []


@pytest.mark.parametrize(
    ("lines", "place", "message"),
    [
        (["pd.respond({})"], None, None),
        (["return 1"], (None, None), "The trigger waits for a custom response, and no step sends one."),
        (["if x:", "    pd.respond({})"], ("a", 2), "The workflow may not respond: this step sends the response only under a condition."),
        (["if x:", "    pd.flow.exit('no')", "pd.respond({})"], ("a", 2), "The workflow may not respond: this step may end it before a response is sent."),
    ],
)  # fmt: skip
def test_a_workflow_that_may_not_respond_is_found(
    lines: list[str], place: tuple[str | None, int | None] | None, message: str | None
) -> None:
    """The finding has the reason, and the step that may prevent the response."""
    findings = found("response", python(*lines), triggers=(Trigger(response="custom"),))

    assert [(finding.step, finding.cell) for finding in findings] == ([] if place is None else [place])
    assert [finding.message for finding in findings] == ([] if message is None else [message])


def test_forms_that_are_unknown_to_git() -> None:
    """Bash, Go, an external user's account and control flow are found."""
    workflow = Workflow(
        "w",
        steps=(
            Step("shell", "bash", "true"),
            Step("compiled", "go", "package main\n"),
            Step("send", source=PYTHON, apps=(AppBinding("slack", "slack"),)),
            Step("own", source=PYTHON, apps=(AppBinding("slack", "slack", "apn_1"),)),
        ),
    ).with_unsupported_entries(
        [
            UnsupportedEntry("own", {"namespace": "branch", "type": "switch"}),
            UnsupportedEntry("own", {"namespace": "archived"}, "$.steps[4]", "is unknown"),
        ]
    )

    findings = [finding for finding in lint_workflow(workflow) if finding.rule == "git-form"]

    assert [finding.step for finding in findings] == ["shell", "compiled", "send", None, None]
    words = ("Bash", "Go", "external user's account", "branch", "an export leaves it out")
    for finding, word in zip(findings, words, strict=True):
        assert word in finding.message


def test_names() -> None:
    """Names that differ in capitals only, and a name without a folder name, are found."""
    steps = (Step("send", source=PYTHON), Step("Send", source=PYTHON))

    assert [finding.step for finding in found("name", *steps)] == ["send", "Send"]
    assert [finding.rule for finding in lint_workflow(Workflow("…/…"))] == ["name"]
    assert lint_workflow(Workflow("Reports / nightly")) == lint_workflow(Workflow("Workflow")) == ()


def test_limits() -> None:
    """Settings out of range, a long time limit and a long value are found."""
    step = Step("a", source=PYTHON, timeout_s=900, props={"text": "é" * 33_000})

    settings: dict[str, JSON] = {"lambda_timeout": 751, "memory": 512, "unknown": 1, "share_workers": "sometimes"}
    findings = found("limit", step, settings=settings)

    assert [finding.message.split(" ")[0] for finding in findings] == ["lambda_timeout", "share_workers", "No", "The"]
    assert findings[1].message == 'share_workers is "sometimes"; expected never or always.'


def test_a_setting_below_its_range_is_found() -> None:
    """Zero is a value like any other, and so is false."""
    settings: dict[str, JSON] = {"lambda_timeout": 0, "rate_limit": 0, "network": False}

    findings = found("limit", settings=settings)

    assert [finding.message for finding in findings] == [
        "lambda_timeout is 0; expected a whole number of seconds from 1 to 750.",
        "network is false; expected the id of a network (net_...).",
    ]


def test_values_at_the_limits_are_not_found() -> None:
    """750 seconds and 64 KB are allowed."""
    step = Step("a", source=PYTHON, timeout_s=750, props={"text": "é" * 32_768})

    assert found("limit", step, settings={"lambda_timeout": 750}) == []


def test_own_accounts_of_disabled_steps_are_not_found() -> None:
    """A disabled step uses no account, neither its own nor the external user's."""
    own, theirs = (AppBinding("slack", "slack", "apn_1"),), (AppBinding("slack", "slack"),)
    for disabled in (0, 1):
        steps = [
            Step(name, source=PYTHON, apps=apps, disabled=index == disabled)
            for index, (name, apps) in enumerate((("a", own), ("b", theirs)))
        ]

        assert found("own-account", *steps) == []


def test_packages() -> None:
    """Packages without an exact version are found with their line; exact ones and the platform's are not."""
    python_step = Step(
        "a",
        source="# pipedream add-package PyYAML==6.0.1\n# pipedream add-package rich>=13\nimport yaml\nimport requests\n"
        f"{PYTHON}",
        cell_index=0,
    )
    node_step = Step(
        "b",
        "node",
        'import { axios } from "@pipedream/platform"\nimport a from "lodash@4.17.21"\nimport b from "dayjs@^1.11"\nimport c from "zod"',
        line_offset=1,
        cell_index=1,
    )

    findings = found("package", python_step, node_step)

    assert [(finding.step, finding.cell, finding.line, finding.message.split(" ")[0]) for finding in findings] == [
        ("a", 1, 2, "rich"), ("a", 1, 4, "requests"), ("b", 2, 4, "dayjs"), ("b", 2, 5, "zod"),
    ]  # fmt: skip


def test_an_answer_that_no_step_reads() -> None:
    """A suspend whose answer no later step reads is found at its line, with what to write; one that is read is not."""
    ask = python("pd.flow.suspend(60000)", name="ask")
    (finding,) = found("answer", ask, python("return 1", name="pay", cell=2))
    read = found("answer", ask, python("return pd.steps['ask']['$resume_data']", name="pay", cell=2))

    assert (finding.step, finding.cell, finding.line, read) == ("ask", 2, 3, [])
    assert "steps.ask.$resume_data" in finding.fix
