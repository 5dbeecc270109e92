"""The report about an imported workflow."""

from __future__ import annotations

import json

from pdkernel.operations.importer.import_report import (
    AccountAssignment,
    ActionSource,
    ImportReport,
    PackageUse,
    SecretUse,
    StoreUse,
    TriggerUse,
    UnsupportedItem,
    VariableRead,
    render_markdown,
    render_text,
)


def test_json_of_a_report() -> None:
    """The JSON has every attribute by its name, in order."""
    report = ImportReport(
        "Greet",
        ready=("a",),
        actions=(ActionSource("b", "slack-send-message@0.0.20", "npm"),),
        accounts=(AccountAssignment("b", "slack", "slack", "unanswered"),),
        variables=(VariableRead("TOKEN", ("a, line 1",)),),
        secrets=(SecretUse("a", "key"),),
        stores=(StoreUse(None, ("a.store",)),),
        triggers=(TriggerUse("hi_1", "http", "no authorization"),),
        packages=(PackageUse("node", "axios", "", ("a",)),),
        cannot=(UnsupportedItem("c", "is control flow"),),
    )

    assert json.dumps(report.to_json()) == json.dumps(
        {
            "workflow": "Greet",
            "ready": ["a"],
            "disabled": [],
            "actions": [{"step": "b", "uses": "slack-send-message@0.0.20", "source": "npm", "runs": True}],
            "accounts": [{"step": "b", "prop": "slack", "app": "slack", "account": "unanswered", "synced": None}],
            "variables": [{"name": "TOKEN", "places": ["a, line 1"], "required": True}],
            "secrets": [{"step": "a", "prop": "key"}],
            "stores": [{"name": None, "props": ["a.store"]}],
            "triggers": [{"id": "hi_1", "type": "http", "settings": "no authorization", "assumed": False}],
            "packages": [{"language": "node", "name": "axios", "version": "", "steps": ["a"]}],
            "gone": [],
            "cannot": [{"name": "c", "why": "is control flow"}],
            "notes": [],
        }
    )


def test_the_account_of_a_prop() -> None:
    """An account is the user's, one of the project's own, or unanswered; the account in Git is named if it is another one."""
    uses = (
        AccountAssignment("a", "slack", "slack", "external_user", synced="apn_1"),
        AccountAssignment("a", "sheet", "unknown", "apn_2", synced="apn_2"),
        AccountAssignment("b", "sheet", "sheets", "unanswered"),
    )

    assert render_text(ImportReport("Greet", accounts=uses)).splitlines() == [
        "  Accounts",
        "    - a.slack, slack: the external user's (Git has apn_1)",
        "    - a.sheet, unknown app: your own, apn_2",
        "    - b.sheet, sheets: **unanswered**: set it in the notebook's pdkernel.yaml (external_user, or an account's id)",
    ]
    assert [use.step for use in ImportReport("Greet", accounts=uses).unanswered] == ["b"]


def test_the_parts_have_their_words() -> None:
    """Stores of Git have a command, variables say whether they are optional, and packages whether a version is required."""
    report = ImportReport(
        "Greet",
        ready=("a", "b"),
        disabled=("d",),
        variables=(VariableRead("TOKEN", ("a, line 1", "b")), VariableRead("DEBUG", ("a",), required=False)),
        secrets=(SecretUse("a", "my key"),),
        stores=(StoreUse(None, ("a.store",)), StoreUse("ds_1", ("a.x", "b.x")), StoreUse("users", ("b.y",))),
        triggers=(
            TriggerUse("hi_1", "http", "no authorization", assumed=True),
            TriggerUse(None, "schedule", "daily\n# hm"),
        ),
        packages=(PackageUse("node", "axios", "1.2.3", ("a", "b")), PackageUse("python", "httpx", "", ("c",))),
    )

    assert render_text(report).splitlines() == [
        "  Runs unchanged",
        "    - a, b",
        "  Data stores",
        "    - the project's default store: a.store",
        "    - ds_1: a.x, b.x; Git has its id, but not its records. Import them: pdkernel store import ds_1 FILE",
        "    - users: b.y",
        "  Triggers",
        "    - hi_1, http: no authorization (assumed, because Git does not store it)",
        "    - schedule: daily # hm",
        "  Environment variables",
        "    - TOKEN: read by a, line 1; b",
        "    - DEBUG: read by a (optional)",
        "  Secret props, of which Git holds only encrypted values",
        "    - a.my key: give its value before a run: %pdsecrets set a 'my key', or pdkernel secrets set SOURCE a 'my key'",
        "  Packages, installed at the first run",
        "    - axios 1.2.3 (node): a, b",
        "    - httpx, any version (python): c",
        "  Disabled, and not run",
        "    - d",
    ]


def test_code_in_markdown_may_contain_backticks() -> None:
    """A name cannot end its own code, or begin another line."""
    report = ImportReport("Greet", cannot=(UnsupportedItem("a`b\nc", "is\ncontrol flow"),))

    assert "- `` a`b c `` is control flow" in render_markdown(report)
