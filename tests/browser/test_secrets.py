"""
No secret leaves the project: the tests search for planted tokens in everything that a session leaves behind.

The fixture `session` works in JupyterLab with "save widget state" on, with steps that try to leak; each test searches
one place. Positive controls show that the steps received the tokens, and that the search works.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from playwright.sync_api import expect

from pdkernel.accounts import LocalDirectory
from pdkernel.storage import Project
from tests.browser.harness import LINK_SERVER, LabPage

TYPED = "xoxb-typed/into+the=picker-91"
TOKENS = {
    "typed": TYPED,
    "variable": "variable-value-7731-sealed",
    "dotenv": "dotenv-value-5512-beside",
    "own": "own-account-secret-4410",
    "header": "header-token-of-the-event-3308",
    "unused": "xoxb-typed-and-not-connected-6620",
}
USED = [name for name in TOKENS if name != "unused"]
MARKER = "marker-that-may-be-found-2244"

LEAK_PYTHON = f"""%%pdstep leak --app slack --app db=apn_own1
import base64, hashlib, os
def handler(pd):
    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]
    secrets = [token, os.environ["API_KEY"], os.environ["BESIDE"], pd.inputs["db"]["$auth"]["password"]]
    secrets.append(pd.steps["trigger"]["event"]["headers"]["authorization"].removeprefix("Bearer "))
    for secret in secrets:
        print(secret, repr(secret), secret.encode().hex())
        print(base64.b64encode(b"x:" + secret.encode()).decode())
        print(base64.urlsafe_b64encode(secret.encode()).decode())
        print("{MARKER}", hashlib.sha256(secret.encode()).hexdigest())
    pd.export("all", secrets)
    return {{"Authorization": "Bearer " + token, token: 1}}
"""
LEAK_NODE = """%%pdstep send --lang node --app slack
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps, $ }) {
    console.log(this.slack.$auth, encodeURIComponent(process.env.API_KEY), process.env.BESIDE);
    const answer = await fetch("https://slack.com/api/chat.postMessage?key=" + process.env.API_KEY, {
      method: "POST",
      headers: { authorization: `Bearer ${this.slack.$auth.oauth_access_token}`, "content-type": "application/json" },
      body: JSON.stringify({ channel: "#general", text: `my token is ${this.slack.$auth.oauth_access_token}` }),
    });
    return { answer: await answer.json(), before: steps.leak };
  },
});
"""
LEAK_BASH = """%%pdstep shell --lang bash
printf '%s' "${API_KEY:0:9}"
sleep 0.3
printf '%s\\n' "${API_KEY:9}"
printf '%s' "$BESIDE" | base64
printf '%s' "$BESIDE" | od -An -tx1 -v | tr -d ' \\n'
echo "key=$API_KEY" >> "$PIPEDREAM_EXPORTS"
"""
FAIL = """%%pdstep fail --app slack
def handler(pd):
    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]
    raise ValueError("no good: " + token)
"""
CONTROL = """import hashlib
from pdkernel.kit.magics.notebook_context import get_session
async def sent(runtime):
    return runtime.gateway.stand_ins["slack"].received
received = get_session(get_ipython()).call_engine(sent)
print("received", hashlib.sha256(received[-1].token.encode()).hexdigest())
print(repr(In), repr(Out), repr(get_session(get_ipython()).event), get_session(get_ipython()).build_steps_value())
"""
CELLS = [
    f"%load_ext pdkernel\n{LINK_SERVER}",
    "%pdegress stand-in=slack",
    "%pduser ada",
    "%pduser",
    "%pdevent hello",
    LEAK_PYTHON,
    LEAK_NODE,
    LEAK_BASH,
    "%pdevent",
    "%pdrun",
    "%pdshape",
    "event",
    "%pdenv",
    CONTROL,
    FAIL,
]


def forms(token: str) -> list[bytes]:
    """The token as text, URL-encoded, hex and base64 (both alphabets) at each of the three offsets."""
    raw = token.encode()
    found = [raw, quote(token, safe="").encode(), raw.hex().encode(), json.dumps(token)[1:-1].encode()]
    for offset in range(3):
        start = (offset * 4 + 2) // 3 if offset else 0
        found.append(base64.b64encode(b"\0" * offset + raw)[start:].rstrip(b"=")[:-1])
    return [*found, *(form.replace(b"+", b"-").replace(b"/", b"_") for form in found[-3:])]


def found_in(data: bytes) -> list[str]:
    """The names of the tokens in *data*, in any form."""
    return [name for name, token in TOKENS.items() if any(form in data for form in forms(token))]


@dataclass
class Session:
    """The traces of a session."""

    folder: Path
    server: Path
    frames: list[bytes] = field(default_factory=list)
    field_after: str = "?"
    link: str = ""
    shown: bytes = b""

    @property
    def notebook(self) -> bytes:
        """The saved notebook."""
        return (self.folder / "secrets.ipynb").read_bytes()


@pytest.fixture(scope="module")
def session(lab_page: LabPage) -> Iterator[Session]:
    """A session that tried to leak every token, with the notebook and the widgets' state saved."""
    lab = lab_page.lab
    folder = lab.root / "secrets"
    prepare(folder)
    lab.write_notebook("secrets/secrets.ipynb", CELLS)
    settings = lab.folder / "settings" / "@jupyter-widgets" / "jupyterlab-manager" / "plugin.jupyterlab-settings"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"saveState": true}')
    left = Session(folder, lab.folder)
    lab_page.page.on(
        "websocket", lambda socket: socket.on("framereceived", lambda data: left.frames.append(as_bytes(data)))
    )
    lab_page.open_notebook("secrets/secrets.ipynb", reload=True)
    work(lab_page, left)
    yield left
    settings.unlink()
    lab_page.close_all()
    lab.end_sessions()


def prepare(folder: Path) -> None:
    """A project with an own account, a variable, a `.env`, and an event with a token in a header."""
    (folder / "events").mkdir(parents=True)
    event = {"method": "POST", "headers": {"authorization": f"Bearer {TOKENS['header']}"}, "body": {"a": 1}}
    (folder / "events" / "hello.json").write_text(json.dumps(event))
    (folder / ".env").write_text(f"BESIDE={TOKENS['dotenv']}\n")
    with Project.open(folder / ".pdkernel") as project:
        project.variables.set("API_KEY", TOKENS["variable"])
        LocalDirectory(project).add_account(
            app="db", credentials={"password": TOKENS["own"]}, external_user_id=None, account_id="apn_own1"
        )


def work(page: LabPage, left: Session) -> None:
    """Connect the account by typing its token, run every cell, open every view, save."""
    page.run_all()
    picker = page.output(CELLS.index("%pduser"))
    secret = picker.locator("input[type=password]").first
    secret.fill(TYPED)
    picker.get_by_role("button", name="Connect", exact=True).first.click()
    expect(picker.get_by_text(re.compile(r"apn_\w+")).first).to_be_visible()
    left.field_after = "".join(each.input_value() for each in picker.locator("input[type=password]").all())
    page.run_all()
    composer = page.output(CELLS.index("%pdevent"))
    composer.get_by_role("button", name="Send", exact=True).click()
    expect(composer.get_by_text("no good").first).to_be_visible()
    page.run_cell(CELLS.index(CONTROL))
    picker.get_by_role("button", name="Connect another").click()
    secret.fill(TOKENS["unused"])
    secret.blur()
    expect(secret).to_have_value("")
    expect(picker.get_by_placeholder("typed (hidden)")).to_be_visible()
    with page.page.context.expect_page() as opened:
        picker.get_by_role("button", name="Reconnect with Link").click()
    opened.value.wait_for_url("**/_static/connect.html?*")
    left.link = parse_qs(urlsplit(opened.value.url).query)["token"][0]
    expect(picker).to_contain_text("Continue in the opened page.")
    opened.value.close()
    left.shown = page.page.content().encode()
    page.save()


def read_files(folder: Path) -> dict[Path, bytes]:
    """The content of each file below *folder*; a file that a process removes meanwhile leaves nothing behind."""
    found = {}
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file():
                    found[path] = path.read_bytes()
    return found


def as_bytes(data: str | bytes) -> bytes:
    """The bytes of a frame."""
    return data.encode() if isinstance(data, str) else data


def test_steps_received_the_token(session: Session) -> None:
    """Positive control: the step received every token in use, and the stand-in the typed token."""
    digests = {name: hashlib.sha256(TOKENS[name].encode()).hexdigest() for name in USED}

    assert [name for name in USED if f"{MARKER} {digests[name]}".encode() not in session.notebook] == []
    assert f"received {digests['typed']}".encode() in session.notebook


def test_the_search_finds_a_token() -> None:
    """Positive control: the search finds a token in each of its forms."""
    assert found_in(b"see " + base64.b64encode(b"ab" + TYPED.encode())) == ["typed"]
    assert found_in(TOKENS["own"].encode().hex().encode()) == ["own"]
    assert found_in(quote(TYPED, safe="").encode()) == ["typed"]


def test_saved_notebook_holds_placeholders(session: Session) -> None:
    """The saved notebook with its widget state has placeholders and the marker, and no token."""
    assert b"widget-state" in session.notebook
    assert MARKER.encode() in session.notebook
    assert "⟦secret:slack/".encode() in session.notebook.replace(rb"\u27e6", "⟦".encode())
    assert found_in(session.notebook) == []


def test_saved_notebook_and_page_hold_no_link(session: Session) -> None:
    """The token of an opened, still valid link is in neither the notebook nor the page, nor in any file."""
    files = read_files(session.server)

    assert session.link.startswith("ctok_")
    assert session.link.encode() not in session.notebook + session.shown
    assert [path.name for path, data in files.items() if session.link.encode() in data] == []


def test_password_field_is_empty(session: Session) -> None:
    """The field of the typed token is empty afterwards."""
    assert session.field_after == ""


def test_page_shows_no_token(session: Session) -> None:
    """The page contains no token, also not a token that was typed and not connected."""
    assert MARKER.encode() in session.shown
    assert found_in(session.shown) == []


def test_kernel_messages_hold_no_token(session: Session) -> None:
    """No message of the kernel contains a token: outputs, widgets' state, In and Out."""
    said = b"\n".join(session.frames)

    assert MARKER.encode() in said
    assert found_in(said) == []


def test_files_hold_no_token(session: Session) -> None:
    """No file of the project, the notebook's folder or Jupyter contains a token, except files that the user wrote."""
    written = {session.folder / ".env", session.folder / "events" / "hello.json"}
    files = {path: data for path, data in read_files(session.server).items() if path not in written}
    leaks = {path.name: found for path, data in files.items() if (found := found_in(data))}

    assert session.folder / ".pdkernel" / "project.db" in files
    assert session.server / "lab.log" in files
    assert [path for path, data in files.items() if MARKER.encode() in data] != []
    assert leaks == {}
