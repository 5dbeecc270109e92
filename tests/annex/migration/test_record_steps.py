"""The recording steps: what they send, what they hide, and that a folder is the same without them."""

from __future__ import annotations

import base64
import gzip
import html
import json
import quopri
import re
import unicodedata
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.migration.record_steps import (
    END_STEP,
    START_STEP,
    RecordSettings,
    add_steps,
    build_step,
    find_folders,
    iter_pasted_steps,
    parse_path,
    remove_steps,
)
from pdkernel.errors import RequestError
from tests.annex.migration.record_harness import RECEIVER, HarnessResult, run_step

SETTINGS = RecordSettings(url=RECEIVER, token="a-token")
SECRET = "p@ss wörd/+&='\"x9Zq\\7~key(1)*"
TOKEN = "tok-9f8e7d6c5b4a39281706"

ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "url": lambda value: urllib.parse.quote(value, safe=""),
    "url in lower case": lambda value: re.sub(r"%..", lambda code: code[0].lower(), urllib.parse.quote(value, safe="")),
    "url path": urllib.parse.quote,
    "url form": urllib.parse.quote_plus,
    "json": json.dumps,
    "json, unicode kept": lambda value: json.dumps(value, ensure_ascii=False),
    "json in json": lambda value: json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False),
    "json in json, escaped": lambda value: json.dumps(json.dumps(value)),
    "hex": lambda value: value.encode().hex(),
    "hex in upper case": lambda value: value.encode().hex().upper(),
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 after one byte": lambda value: base64.b64encode(b"u" + value.encode() + b"!").decode(),
    "base64 after two bytes": lambda value: base64.b64encode(b"u:" + value.encode() + b"!!").decode(),
    "base64url": lambda value: base64.urlsafe_b64encode(b"\xff" + value.encode()).decode(),
    "base64 in rows": lambda value: base64.encodebytes((value * 4).encode()).decode(),
    "base64 twice": lambda value: base64.b64encode(base64.b64encode(value.encode())).decode(),
    "base32": lambda value: base64.b32encode(value.encode()).decode(),
    "html": html.escape,
    "utf-16": lambda value: base64.b64encode(value.encode("utf-16-le")).decode(),
    "reversed": lambda value: value[::-1],
    "lower case": str.lower,
    "upper case": str.upper,
    "decomposed": lambda value: unicodedata.normalize("NFD", value),
    "utf-8 read as latin-1": lambda value: value.encode().decode("latin-1"),
    "unicode escapes": lambda value: "".join(f"\\u{ord(letter):04x}" for letter in value),
    "html by numbers": lambda value: "".join(f"&#{ord(letter)};" for letter in value),
    "html by hex numbers": lambda value: "".join(f"&#x{ord(letter):X};" for letter in value),
    "quoted-printable": lambda value: quopri.encodestring(value.encode(), quotetabs=True).decode(),
    "url twice": lambda value: urllib.parse.quote(urllib.parse.quote(value, safe=""), safe=""),
    "url three times": lambda value: urllib.parse.quote(urllib.parse.quote(urllib.parse.quote(value, safe=""))),
    "json in base64": lambda value: base64.b64encode(json.dumps({"k": value}).encode()).decode(),
    "json in hex": lambda value: json.dumps({"k": value}).encode().hex(),
    "url in base64url": lambda value: base64.urlsafe_b64encode(f"a=b&k={urllib.parse.quote(value)}".encode()).decode(),
    "base64 three times": lambda value: base64.b64encode(
        base64.b64encode(base64.b64encode(f"u:{value}".encode()))
    ).decode(),
    "gzip in base64": lambda value: base64.b64encode(gzip.compress(value.encode())).decode(),
    "zlib in base64": lambda value: base64.b64encode(zlib.compress(value.encode())).decode(),
    "zlib in hex": lambda value: zlib.compress(value.encode()).hex(),
}

HIDDEN_AS_A_WHOLE = {"unicode escapes", "html by numbers", "html by hex numbers", "quoted-printable", "url three times"}
"""Encodings with which the text around the secret is hidden, too."""


def steps_of(event: Any, exports: Mapping[str, Any] | None = None, *, recorded: bool = True, run: str = "run1") -> Any:
    """The `steps` that a step sees."""
    return {
        "trigger": {"event": event, "context": {"id": f"id-{run}", "trace_id": run, "workflow_id": "p_Abc1234"}},
        **({START_STEP: {"$return_value": {"recorded": recorded}}} if exports is not None else {}),
        **(exports or {}),
    }


def start(folder: Path, event: Any, settings: RecordSettings = SETTINGS, **options: Any) -> HarnessResult:
    """Run the step at the start."""
    return run_step(folder, build_step("start", settings, workflow_id="p_Abc1234"), [steps_of(event)], **options)


def end(
    folder: Path, exports: Mapping[str, Any], settings: RecordSettings = SETTINGS, event: Any = None, **options: Any
) -> HarnessResult:
    """Run the step at the end."""
    code = build_step("end", settings, workflow_id="p_Abc1234", accounts=[("account_1", "slack")])
    return run_step(folder, code, [steps_of(event or {}, exports)], **options)


def test_a_start_and_an_end_are_sent(tmp_path: Path) -> None:
    """The start has the event and the context, the end the exports of the workflow's own steps; both name the run."""
    first = start(tmp_path / "start", {"body": {"n": 1}}).sent[0]
    last = end(tmp_path / "end", {"read": {"$return_value": {"n": 2}}}).sent[0]

    assert first["url"] == "/records"
    assert first["headers"]["x-pdkernel-token"] == "a-token"
    assert (first["body"]["part"], first["body"]["run"], first["body"]["event"]) == (
        "start",
        "run1",
        {"body": {"n": 1}},
    )
    assert first["body"]["context"]["workflow_id"] == "p_Abc1234"
    assert (last["body"]["part"], last["body"]["run"]) == ("end", "run1")
    assert last["body"]["steps"] == {"read": {"$return_value": {"n": 2}}}


@pytest.mark.parametrize("secret", [SECRET, TOKEN], ids=["odd", "token"])
def test_a_secret_is_in_no_record(tmp_path: Path, secret: str) -> None:
    """A variable in an event, and the credentials of an account in exports, are hidden in every encoding, also within a text."""
    texts = {encoding: encode(secret) for encoding, encode in ENCODINGS.items()}
    planted = {
        encoding: {"note": text, "deep": [{"x": f"before {text} after"}], text: 1} for encoding, text in texts.items()
    }

    first = start(tmp_path / "start", planted, environ={"MY_SETTING": secret})
    props = {"account_1": {"$auth": {"oauth_access_token": secret}}}
    last = end(tmp_path / "end", {"send": {"$return_value": planted}}, props=props)

    event, exports = first.sent[0]["body"]["event"], last.sent[0]["body"]["steps"]["send"]["$return_value"]
    for done, record in ((first, event), (last, exports)):
        assert secret not in done.text
        for encoding, text in texts.items():
            part = json.dumps(record[encoding], ensure_ascii=False)
            assert "{{redacted}}" in part, encoding
            assert json.dumps(text, ensure_ascii=False)[1:-1] not in done.text, encoding
            assert encoding in HIDDEN_AS_A_WHOLE or "before " in part, encoding


def test_a_field_and_a_header_are_hidden_with_every_later_occurrence(tmp_path: Path) -> None:
    """Values of secret fields and headers are hidden where they are named, and where a step repeats them in another encoding."""
    event = {
        "headers": {
            "authorization": "Bearer abcdefgh12345678",
            "x-hub-signature-256": "sha256=0011223344556677",
            "host": "a",
        },
        "body": {"password": "hunter2hunter2", "user": "ada", "text": '{"api_key": "k-1234567890"}', "pin": 1234},
        "list": [{"name": "Cookie", "value": "sid=9988776655"}],
    }
    exports = {
        "read": {"$return_value": base64.b64encode(b"user:hunter2hunter2").decode()},
        "call": {"config": "Authorization: abcdefgh12345678; q=k-1234567890&token=zzzz"},
        "log": {
            "$return_value": {"sid": "9988776655", "bytes": list(b"xx hunter2hunter2"), "next_page_token": "page2"}
        },
    }

    first = start(tmp_path / "start", event)
    last = end(tmp_path / "end", exports, event=event)

    for word in ("abcdefgh12345678", "0011223344556677", "hunter2", "k-1234567890", "1234,", "9988776655"):
        assert word not in first.text, word
        assert word not in last.text, word
    assert "zzzz" not in last.text
    assert first.sent[0]["body"]["event"]["body"]["user"] == "ada"
    assert first.sent[0]["body"]["event"]["headers"]["host"] == "a"
    assert last.sent[0]["body"]["steps"]["log"]["$return_value"]["next_page_token"] == "page2"
    assert str(list(b"hunter2")).strip("[]") not in last.text


def test_a_secret_in_parts_is_hidden(tmp_path: Path) -> None:
    """A list of letters, of parts or of bytes that are a secret together is hidden as a whole."""
    lists = [
        list(SECRET),
        [SECRET[:5], SECRET[5:9], SECRET[9:], "more"],
        list(SECRET.encode()),
        list(gzip.compress(SECRET.encode())),
    ]

    done = end(tmp_path, {"a": {"$return_value": [*lists, ["just", "words"]]}}, environ={"MY_SETTING": SECRET})

    assert done.sent[0]["body"]["steps"]["a"]["$return_value"] == [*[["{{redacted}}"]] * 4, ["just", "words"]]


def test_a_private_key_is_hidden_with_its_lines(tmp_path: Path) -> None:
    """Not just the line at which a key is recognized; also in JSON, and a part of a key."""
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n7bq8c9d0\n-----END RSA PRIVATE KEY-----"

    done = end(tmp_path, {"a": {"$return_value": [f"a {key} b", json.dumps({"k": key}), key[:60]]}})

    assert done.sent[0]["body"]["steps"]["a"]["$return_value"] == [
        "a {{redacted}} b",
        '{"k": "{{redacted}}"}',
        "{{redacted}}",
    ]


def test_many_secrets_of_a_large_event_are_hidden(tmp_path: Path) -> None:
    """Hundreds of secrets in a large event, which a caller can send, are all found."""
    secrets = [{"token": f"tok-{number}-abcdefghij/+&é"} for number in range(290)]
    event = {"body": {"secrets": secrets, "text": "abcdefgh " * 20_000 + "tok-7-abcdefghij/+&é"}}
    code = build_step("start", SETTINGS, workflow_id=None).replace("LIMIT_MS = 2000;", "LIMIT_MS = 60_000;")

    done = run_step(tmp_path, code, [steps_of(event)])

    assert done.results[0]["value"] == {"recorded": True}
    assert "abcdefghij" not in done.text


def test_a_named_path_is_hidden(tmp_path: Path) -> None:
    """`--redact` hides a value where the path leads, and elsewhere."""
    settings = RecordSettings(url=SETTINGS.url, redacted_paths=("steps.trigger.event.body.mail", "event.rows[*].name"))
    event = {"body": {"mail": "lin@example.com"}, "rows": [{"name": "Lin", "n": 1}, {"name": "Bo", "n": 2}]}

    first = start(tmp_path / "start", event, settings)
    last = end(tmp_path / "end", {"read": {"$return_value": "to lin@example.com"}}, settings, event)

    assert first.sent[0]["body"]["event"]["rows"] == [
        {"name": "{{redacted}}", "n": 1},
        {"name": "{{redacted}}", "n": 2},
    ]
    assert "lin@example" not in first.text + last.text


def test_known_forms_of_credentials_are_hidden(tmp_path: Path) -> None:
    """A text with the form of a credential is hidden, although nothing names it."""
    forms = ["xoxb-123456789012-abcdefghijkl", "AKIAABCDEFGHIJKLMNOP", "https://ada:secretword@example.com/"]

    done = end(tmp_path, {"a": {"$return_value": [f"see {form} there" for form in forms]}})

    assert all(form not in done.text for form in (*forms, "secretword"))


def test_variables_of_the_machine_are_not_secrets(tmp_path: Path) -> None:
    """The region and the path of the machine may occur in exports."""
    done = end(
        tmp_path,
        {"a": {"$return_value": "us-east-1 ok"}},
        environ={"AWS_REGION": "us-east-1", "AWS_SESSION_TOKEN": TOKEN},
    )

    assert done.sent[0]["body"]["steps"] == {"a": {"$return_value": "us-east-1 ok"}}


@pytest.mark.parametrize(
    ("mode", "error"),
    {
        "refuse": "ECONNREFUSED",
        "hang": "TimeoutError",
        "hang in the body": "TimeoutError",
        "500": "Status500",
        "301": "Status301",
        "a long body": "LongAnswer",
        "no JSON": "Status200",
        "a broken body": "ECONNRESET",
        "not HTTP": "HPE_INVALID_CONSTANT",
    }.items(),
)
def test_an_error_is_swallowed(tmp_path: Path, mode: str, error: str) -> None:
    """A sink that refuses, hangs, redirects or answers anything else does not fail the step, which ends after the limit and names the error."""
    done = start(tmp_path, {"a": 1}, answer=mode)

    assert done.results[0]["value"] == {"recorded": False, "error": error}
    assert done.results[0]["ms"] < 20_000
    assert "/elsewhere" not in done.paths


def test_a_connection_that_the_receiver_closed_is_replaced(tmp_path: Path) -> None:
    """Runs of one process use one connection, and a closed one is replaced without a loss."""
    code = build_step("start", SETTINGS, workflow_id=None)

    done = run_step(
        tmp_path, code, [steps_of({}, run=f"run-{number}") for number in range(5)], answer="a closed connection"
    )

    assert [each["value"] for each in done.results] == [{"recorded": True}] * 5


def test_a_step_leaves_nothing_running(tmp_path: Path) -> None:
    """When the step ends, its kept connection is idle: a platform that waits for leftover code has nothing to wait for."""
    code = build_step("start", SETTINGS, workflow_id=None)

    done = run_step(tmp_path, code, [steps_of({}, run=f"run-{number}") for number in range(3)])

    assert [(each["value"], each["sockets"]) for each in done.results] == [({"recorded": True}, 0)] * 3


HOSTILE = {
    "open quotes": "'a':'" * 40_000,
    "escaped quotes": '"token":\\"' * 20_000,
    "names": "a.b-" * 60_000,
    "beginnings of tokens": "eyJ-" * 60_000,
    "beginnings of addresses": "://a:" * 50_000,
    "pairs": "token=" * 40_000,
    "spaces": '"token"' + " " * 250_000,
    "braces": "[" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_event_that_takes_long_to_search_does_not_stop_the_run(tmp_path: Path, name: str) -> None:
    """A caller of the endpoint cannot slow the workflow down by a text that is hard to search."""
    assert start(tmp_path, {"body": HOSTILE[name]}).results[0]["value"].keys() >= {"recorded"}


def test_an_event_with_too_many_secrets_is_not_recorded(tmp_path: Path) -> None:
    """Thousands of secret fields would take too long to search for: the error is counted, and nothing is sent."""
    done = start(tmp_path, {"body": [{"token": f"token-{number:08}"} for number in range(5000)]})

    assert done.results[0]["value"] == {"recorded": False, "error": "TooManySecrets"}
    assert done.sent == ()


def test_an_event_that_is_not_an_object_is_recorded(tmp_path: Path) -> None:
    """Null, text and lists are events, too."""
    for number, event in enumerate([None, "text", [1, 2]]):
        assert start(tmp_path / str(number), event).sent[0]["body"]["event"] == event


def test_a_sample_is_kept(tmp_path: Path) -> None:
    """One run of N is recorded, so many a day, and the end follows the start."""
    runs = [steps_of({}, run=f"run-{number}") for number in range(400)]
    every = RecordSettings(url=SETTINGS.url, every=4)
    first = RecordSettings(url=SETTINGS.url, first_a_day=3)

    some = run_step(tmp_path / "a", build_step("start", every, workflow_id=None), runs)
    few = run_step(tmp_path / "b", build_step("start", first, workflow_id=None), runs)
    refused = start(tmp_path / "c", {}, keep=False)
    after = run_step(
        tmp_path / "d", build_step("end", SETTINGS, workflow_id=None), [steps_of({}, {"a": {}}, recorded=False)]
    )

    assert 60 < len(some.sent) < 140
    assert len(few.sent) == 3
    assert refused.results[0]["value"] == {"recorded": False}
    assert after.sent == ()


def test_large_values_are_left_out(tmp_path: Path) -> None:
    """The largest exports are left out first, with their size; a large event, too."""
    settings = RecordSettings(url=SETTINGS.url, max_characters=1000)

    last = end(tmp_path / "a", {"small": {"$return_value": 1}, "large": {"$return_value": "x" * 5000}}, settings)
    first = start(tmp_path / "b", {"body": "x" * 5000}, settings)

    steps = last.sent[0]["body"]["steps"]
    assert steps["small"] == {"$return_value": 1}
    assert steps["large"]["$pdkernel_omitted"] > 5000
    assert first.sent[0]["body"]["event"].keys() == {"$pdkernel_omitted"}


def test_nothing_is_recorded_after_the_last_day(tmp_path: Path) -> None:
    """From the end date on the step does nothing."""
    done = start(tmp_path, {}, RecordSettings(url=SETTINGS.url, until="2020-01-01"))

    assert (done.sent, done.results[0]["value"]) == ((), {"recorded": False})


def test_a_step_at_the_end_of_a_branch_hands_on_the_exports(tmp_path: Path) -> None:
    """The block returns what the branch's last step exports, so the recording step exports the same."""
    code = build_step("urgent", SETTINGS, workflow_id=None)
    steps = steps_of({}, {"page": {"$return_value": {"paged": True}, "extra": 7}})

    done = run_step(tmp_path, code, [steps])

    assert done.results[0]["value"] == {"paged": True}
    assert done.exported == {"extra": 7}
    assert done.sent[0]["body"]["part"] == "branch/urgent"


YAMLS = {
    "plain": 'schema: workflow/2022.04\nname: A\ntriggers:\n- id: hi_1\nsteps:\n- namespace: work\n  runtime: nodejs20.x\n  uses: "./work/entry.js"\n\n',
    "no line break at the end": "schema: workflow/2022.04\nname: A\ntriggers: []\nsteps:\n- namespace: work\n  uses: ./work/entry.js",
    "windows": "schema: workflow/2022.04\r\nname: A\r\ntriggers: []\r\nsteps:\r\n- namespace: work\r\n  uses: ./work/entry.js\r\n",
    "comments": "# one\nschema: workflow/2022.04\nname: A # two\ntriggers: []\nsteps: # three\n  # four\n  - namespace: work # five\n    uses: ./work/entry.js\n    # six\n# seven\n",
    "steps first": "schema: workflow/2022.04\nsteps:\n- namespace: work\n  uses: ./work/entry.js\n  props:\n    slack:\n      authProvisionId: apn_Abc123\nname: A\ntriggers: []\n",
    "flow": "schema: workflow/2022.04\nname: A\ntriggers: []\nsteps: [{namespace: work, uses: ./work/entry.js}]\n",
}


@pytest.mark.parametrize("form", YAMLS)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "bom"])
def test_removal_is_byte_for_byte(tmp_path: Path, form: str, mark: str) -> None:
    """The folder after `add_steps` (twice) and `remove_steps` is the folder before, or it is refused and never changed."""
    folder = tmp_path / "a-p_Abc1234"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "entry.js").write_text(
        'export default { props: { slack: { type: "app", app: "slack" } }, run() {} }'
    )
    (folder / "workflow.yaml").write_bytes((mark + YAMLS[form]).encode())
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    added = add_steps(folder, SETTINGS)
    again = add_steps(folder, SETTINGS)
    changed = (folder / "workflow.yaml").read_bytes()
    removed = remove_steps(folder)

    assert {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / START_STEP).exists()
    if added.refusal is None:
        assert again.refusal is None
        assert (START_STEP.encode() in changed, END_STEP.encode() in changed) == (True, True)
        assert len(removed.changed) == 3
    else:
        assert form == "flow"


def test_a_removal_keeps_what_was_edited_meanwhile(tmp_path: Path) -> None:
    """Edits of the workflow after the steps were added stay, and a file that a person put beside a step's code stays, too."""
    folder = tmp_path / "a-p_Abc1234"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "entry.js").write_text("export default { run() {} }")
    (folder / "workflow.yaml").write_text(YAMLS["comments"])
    add_steps(folder, SETTINGS)
    edited = (folder / "workflow.yaml").read_text().replace("name: A # two", "name: B # 2")
    more = "  - namespace: more\n    uses: ./more/entry.js\n# seven\n"
    (folder / "workflow.yaml").write_text(edited.replace("# seven\n", more))
    (folder / END_STEP / "notes.txt").write_text("mine")

    remove_steps(folder)

    expected = YAMLS["comments"].replace("name: A # two", "name: B # 2").replace("# seven\n", more)
    assert (folder / "workflow.yaml").read_text() == expected
    assert [path.name for path in (folder / END_STEP).iterdir()] == ["notes.txt"]
    assert not (folder / START_STEP).exists()


def test_the_accounts_of_the_workflow_belong_to_the_end(tmp_path: Path) -> None:
    """The end step gets the accounts whose credentials it hides; the start does not, as a broken account would end the run there."""
    folder = tmp_path / "a-p_Abc1234"
    (folder / "work").mkdir(parents=True)
    (folder / "work" / "entry.js").write_text(
        'export default { props: { slack: { type: "app", app: "slack" } }, run() {} }'
    )
    (folder / "workflow.yaml").write_text(YAMLS["steps first"])

    add_steps(folder, SETTINGS)

    assert "account_1: { type: 'app', app: \"slack\" }" in (folder / END_STEP / "entry.js").read_text()
    assert "type: 'app'" not in (folder / START_STEP / "entry.js").read_text()
    assert (folder / "workflow.yaml").read_text().count("apn_Abc123") == 2


def test_a_workflow_without_steps_is_refused(tmp_path: Path) -> None:
    """There is nothing to record, and the folder stays as it is."""
    (tmp_path / "workflow.yaml").write_text("schema: workflow/2022.04\nname: A\ntriggers: []\n")

    assert add_steps(tmp_path, SETTINGS).refusal == "There is no step to record."
    assert [path.name for path in tmp_path.iterdir()] == ["workflow.yaml"]


def test_every_workflow_below_a_folder_is_found(tmp_path: Path) -> None:
    """Folders inside of the project are searched; a folder without a workflow is refused."""
    for name in ("one-p_Abc1234", "deep/two-p_Abc1235"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "workflow.yaml").write_text(YAMLS["plain"])

    assert {path.name for path in find_folders(tmp_path)} == {"one-p_Abc1234", "two-p_Abc1235"}


@pytest.mark.parametrize("path", ["", "body.email", "event", "event..x", "event[", "steps.trigger.event"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    """The error shows what a path looks like."""
    with pytest.raises(RequestError, match="not a path of a record") as refused:
        parse_path(path)

    assert "event.body.email" in str(refused.value.fix)


def test_the_steps_to_paste_name_their_places() -> None:
    """The start, the end of each branch and the end come in the order of the workflow, each with where it goes."""
    steps = list(iter_pasted_steps(SETTINGS, workflow_id="p_Abc1234", branches=["very urgent"]))

    assert [name for name, _, _ in steps] == [START_STEP, "pd_record_very_urgent", END_STEP]
    assert "below the trigger" in steps[0][1]
    assert "last step of the branch very urgent" in steps[1][1]
    assert all("defineComponent" in code for _, _, code in steps)
