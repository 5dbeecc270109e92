"""The `README.md` of an exported workflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import RequestError
from pdkernel.files.definition.readme import GENERATED_COMMENT, README, build_readme, check_readme_replaceable
from pdkernel.model import Trigger
from tests.builders import a_step, a_workflow, node_step, python_step


def test_a_readme() -> None:
    """The file has triggers, a table of steps, the variables with their readers, and the manual steps."""
    workflow = a_workflow(
        replace(
            python_step("read", "import os\nreturn os.environ['KEY']", options="--app slack=apn_1"),
            notes="Two\nlines | one\n<b>",
        ),
        replace(node_step("send", options="--app chat:slack"), disabled=True),
        a_step("%%pdstep post --uses slack-send@1.0.0\ntext: Hi\n"),
        name="Orders & *more*",
    )

    assert build_readme(workflow, ["Set `KEY`."]).splitlines() == [
        GENERATED_COMMENT,
        "",
        r"# Orders & \*more\*",
        "",
        "Started by:",
        "",
        "- an HTTP request (auth none, response default)",
        "",
        "| step | runs | accounts | notes |",
        "|---|---|---|---|",
        r"| `read` | Python | slack: apn\_1 | Two lines \| one \<b\> |",
        "| `send` | Node.js, disabled | slack: of the external user |  |",
        "| `post` | `slack-send@1.0.0` |  |  |",
        "",
        "Environment variables:",
        "",
        "- `KEY`, read by read",
        "",
        "Serve this folder:",
        "",
        "    pdkernel serve .",
        "",
        "Set up by hand, because Git sync does not transfer it:",
        "",
        r"- [ ] Set \`KEY\`.",
    ]


def test_triggers() -> None:
    """A trigger has its settings without its id; a workflow without triggers is started by others."""
    triggers = (
        Trigger("schedule", config={"id": "ti_1", "cron": "0 9 * * *", "interval_seconds": 5}),
        Trigger("email"),
        Trigger(auth="bearer", token_env="T", response="custom"),
    )

    assert [
        line for line in build_readme(replace(a_workflow(), triggers=triggers)).splitlines() if line[:1] == "-"
    ] == [
        r"- a schedule (cron 0 9 \* \* \*, interval\_seconds 5)",
        "- an email",
        "- an HTTP request (auth bearer, response custom)",
    ]
    bare = build_readme(replace(a_workflow(), triggers=()))
    assert "- other workflows, by `$.flow.trigger`" in bare
    assert "| step |" not in bare
    assert bare.endswith("\n")


def test_only_a_written_file_is_replaced(tmp_path: Path) -> None:
    """A file of an earlier export is replaced; another file, also an empty one, is refused."""
    check_readme_replaceable(tmp_path)
    (tmp_path / README).write_text(build_readme(a_workflow()))
    check_readme_replaceable(tmp_path)
    for text in ("", "# Mine\n", f"\n{GENERATED_COMMENT}"):
        (tmp_path / README).write_text(text)
        with pytest.raises(RequestError, match="was not written by an export"):
            check_readme_replaceable(tmp_path)
    (tmp_path / README).unlink()
    (tmp_path / README).mkdir()
    with pytest.raises(RequestError, match="cannot be read"):
        check_readme_replaceable(tmp_path)
