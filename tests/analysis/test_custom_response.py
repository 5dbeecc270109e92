"""Steps that send a custom response."""

from __future__ import annotations

import pytest

from pdkernel.analysis import (
    responds,
)
from pdkernel.model import Step

GO = 'package main\nimport "os"\nfunc main() {}\n'


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step("a", "bash", "echo '{}' > \"$PIPEDREAM_RESPONSE\""), "maybe"),
        (Step("a", "bash", "# $PIPEDREAM_RESPONSE"), "never"),
        (Step("a", "go", GO + "func f() { pd.Respond(200, nil, nil) }"), "maybe"),
        (Step("a", "go", GO + "// pd.Respond(200, nil, nil)"), "never"),
        (Step("a", "node", "$PIPEDREAM_RESPONSE"), "never"),
    ],
)
def test_bash_and_go_steps_that_may_respond(step: Step, expected: str) -> None:
    """A Bash or Go step that names its response call may respond; a Node.js step with the same text does not."""
    assert responds(step) == expected
