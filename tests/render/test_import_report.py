"""The report about an imported workflow."""

from __future__ import annotations

import json

from pdkernel.render.import_report import (
    AccountAssignment,
    ActionSource,
    ImportReport,
    PackageUse,
    SecretUse,
    StoreUse,
    TriggerUse,
    UnsupportedItem,
    VariableRead,
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
