"""App props from the directive and the code of a step."""

from __future__ import annotations

from pdkernel.language.analysis import (
    find_app_bindings,
    find_declared_apps,
)
from pdkernel.model import AppBinding, Step

GO = 'package main\nimport "os"\nfunc main() {}\n'


COMPONENT = """
import x from "x";
export default defineComponent({
  props: {
    chat: { type: "app", app: "slack" },
    "mail-box": { app: 'gmail', type: `app` },
    text: { type: "string" },
    other: imported,
    ["computed"]: { type: "app", app: "no" },
  },
  async run({ steps, $ }) {},
})
"""


def test_declared_apps() -> None:
    """App props written with literals are found without running the code."""
    step = Step("s", "node", COMPONENT, apps=(AppBinding("chat", "slack", "apn_1"),))

    assert find_declared_apps(step) == (AppBinding("chat", "slack"), AppBinding("mail-box", "gmail"))
    assert find_app_bindings(step) == (AppBinding("chat", "slack", "apn_1"), AppBinding("mail-box", "gmail"))
    assert find_declared_apps(Step("s", source=COMPONENT)) == ()


def test_go_names_apps_by_reading_them() -> None:
    """`pd.Accounts["slack"]` is the external user's account, unless the directive names an account."""
    code = GO + 'func f() { pd.Accounts["slack"]["token"]; pd.Accounts["github"]; pd.Accounts[x] }'
    own = AppBinding("slack", "slack", "apn_1")

    assert find_app_bindings(Step("a", "go", code, apps=(own,))) == (own, AppBinding("github", "github"))


def test_one_account_belongs_to_one_prop() -> None:
    """`--app slack` sets the account of the first prop of that app; a second prop has the external user's account."""
    source = COMPONENT.replace("{ app: 'gmail', type: `app` }", '{ type: "app", app: "slack" }')
    step = Step("s", "node", source, apps=(AppBinding("slack", "slack", "apn_1"),))

    assert find_app_bindings(step) == (AppBinding("chat", "slack", "apn_1"), AppBinding("mail-box", "slack"))
