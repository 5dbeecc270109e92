"""The notebook cell that uses an action."""

from __future__ import annotations

from pdkernel.actions.action_view import build_action_cell
from pdkernel.actions.component import Component
from pdkernel.model import AppBinding
from pdkernel.workers import ComponentDescription, PropDeclaration


def test_the_cell_of_an_action() -> None:
    """Required props are lines to fill in, optional ones are comments; no description starts an expression, and none is long."""
    component = Component("slack-send-message", "1.0.0", "slack", "Send", "", "npm")
    label = {"label": "Text", "description": f"For example {{{{steps.a}}}}. {'long ' * 60}"}
    props = (
        PropDeclaration("text", "string", definition=label),
        PropDeclaration("limit", "integer", optional=True, definition={"default": 5}),
        PropDeclaration("kind", "string", optional=True, definition={"options": ["a", {"label": "Bee", "value": "b"}]}),
        PropDeclaration("notice", "alert"),
        PropDeclaration("timer", "$.interface.timer"),
        PropDeclaration("inner", "string", definition={"hidden": True}),
    )
    description = ComponentDescription(apps=(AppBinding("chat", "slack"), AppBinding("flow", "node")), props=props)

    directive, comment, *lines = build_action_cell(component, description).splitlines()

    assert directive == "%%pdstep send_message --uses slack-send-message@1.0.0 --app slack"
    assert comment.startswith("# string, required: Text. For example { {steps.a}}. long")
    assert len(comment) == 200
    assert lines == ["text:", "# integer, default 5", "# limit: 5", "# string", "# One of: a, b (Bee)", "# kind:"]
