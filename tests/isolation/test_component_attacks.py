"""Attacks of components that the Connect API runs: an action, a deployed trigger, and what describes them, in a real `pdkernel serve`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout
from tests.notebook_files import notebook_of
from tests.serve_process import serving
from tests.server.deploying import write_sources

USER = "mallory"
ADMIN = "admin-planted-secret-7QmV2kXwP9"
OPEN = "control.txt"
"""A file beside the project's own folder, which components may read."""
ATTACK = r"""
const fs = process.getBuiltinModule("fs"), path = process.getBuiltinModule("path"), os = process.getBuiltinModule("os");
const { execFileSync } = process.getBuiltinModule("child_process");
const { CLOSED, CONTROL, OWN } = PLACES;

const inScratch = () => fs.mkdtempSync(path.join(os.tmpdir(), "attack-"));
const WAYS = {
  path: (place) => fs.readFileSync(place),
  link: (place) => { const link = path.join(inScratch(), "link"); fs.symlinkSync(place, link); return fs.readFileSync(link); },
  link_to_folder: (place) => {
    const link = path.join(inScratch(), "folder");
    fs.symlinkSync(path.dirname(place), link);
    return fs.readFileSync(path.join(link, path.basename(place)));
  },
  relative_link: (place) => {
    const folder = inScratch(), link = path.join(folder, "link");
    fs.symlinkSync(path.relative(folder, place), link);
    return fs.readFileSync(link);
  },
  dots: (place) => fs.readFileSync("/usr/.." + place),
  root: (place) => fs.readFileSync("/proc/self/root" + place),
  thread: (place) => fs.readFileSync("/proc/thread-self/root" + place),
  init: (place) => fs.readFileSync("/proc/1/root" + place),
  copy: (place) => { const copy = path.join(inScratch(), "copy"); fs.copyFileSync(place, copy); return fs.readFileSync(copy); },
  child: (place) => execFileSync("cat", [place], { stdio: ["ignore", "pipe", "ignore"] }),
  hard_link: (place) => { const link = path.join(inScratch(), "hard"); fs.linkSync(place, link); return fs.readFileSync(link); },
  appended: (place) => { const file = fs.openSync(place, "a+"); try { return fs.readFileSync(place); } finally { fs.closeSync(file); } },
};
const reaches = (way, place) => { try { return WAYS[way](place).length > 0; } catch { return false; } };
const environs = () => fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map((pid) => `/proc/${pid}/environ`);
const readsAdmin = (place) => { try { return fs.readFileSync(place, "latin1").includes("planted-secret-7QmV"); } catch { return false; } };
const attack = (where) => {
  fs.writeFileSync(path.join(inScratch(), "own"), "own");
  const found = CLOSED.flatMap((place) => Object.keys(WAYS).filter((way) => reaches(way, place)).map((way) => `${way} ${place}`));
  const names = [...new Set(CLOSED.map((place) => path.dirname(place)))].flatMap((folder) => {
    try { return fs.readdirSync(folder).filter((name) => name.startsWith("project.db") || name === "key"); } catch { return []; }
  });
  return {
    where, found: [...found, ...names, ...environs().filter(readsAdmin)],
    control: Object.keys(WAYS).filter((way) => reaches(way, CONTROL)),
  };
};
const AHEAD = attack("ahead");
"""
ACTION = """
export default {
  key: "depot-spy-here", name: "Spy", description: "Attacks.", version: "0.0.1", type: "action",
  props: {
    ahead: { type: "string", label: "Ahead", description: JSON.stringify(AHEAD), optional: true },
    choice: { type: "string", label: "Choice", optional: true, options: async () => [JSON.stringify(attack("options"))] },
    more: { type: "string", label: "More", optional: true, reloadProps: true },
  },
  async additionalProps() {
    return { extra: { type: "string", label: "Extra", optional: true, description: JSON.stringify(attack("additional props")) } };
  },
  async run() { return attack("action"); },
};
"""
SOURCE = """
export default {
  key: "depot-spy-there", name: "Spy", description: "Attacks.", version: "0.0.1", type: "source",
  props: { http: "$.interface.http" },
  hooks: {
    async deploy() { this.$emit(attack("hook deploy"), { id: "deploy", summary: "hook" }) },
    async activate() { this.$emit(attack("hook activate"), { id: "activate", summary: "hook" }) },
  },
  async run() { this.$emit(attack("run of a source"), { id: String(Math.random()), summary: "run" }) },
};
"""


@dataclass(frozen=True)
class Site:
    """
    A served project with components that attack.

    Attributes:
        http: A client of the Connect API with an access token.
        api: URL of the project's routes.
    """

    http: httpx.Client
    api: str

    def post(self, path: str, **body: Any) -> Any:
        """Send *body* for the external user; return the JSON of the response."""
        answer = self.http.post(f"{self.api}{path}", json={"external_user_id": USER, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for_events(self, trigger: str, *wanted: str) -> dict[str, Any]:
        """The events of a deployed trigger by the place in its code that emitted them, when all *wanted* are there."""
        until = time.monotonic() + 60
        found: dict[str, Any] = {}
        while not found.keys() >= set(wanted) and time.monotonic() < until:
            time.sleep(0.1)
            answer = self.http.get(
                f"{self.api}/deployed-triggers/{trigger}/events", params={"external_user_id": USER}
            ).json()
            found = {event["e"]["where"]: event["e"] for event in answer["data"]}
        return found


@contextmanager
def _site(folder: Path, *, mode: int) -> Iterator[Site]:
    """Serve a project in *folder*, which has the mode *mode*."""
    project_folder = folder / "project"
    project_folder.mkdir(parents=True)
    other = folder / "other" / ".env"
    other.parent.mkdir()
    other.write_text("SECRET=of-another-project\n")
    (project_folder / OPEN).write_text("open to components")
    notebook_of(project_folder / "served.ipynb", "%%pdstep one\ndef handler(pd):\n    return 1\n")
    checkout = write_checkout(folder / "checkout")
    with Project.open(project_folder / ".pdkernel") as project:
        project.settings.set("actions", str(checkout))
        client = project.oauth_clients.create("back end")
        token = project.access_tokens.issue(client.client.id, ("*",))
        own = project.folder
        planted = own / "recordings" / "planted.json"
        planted.parent.mkdir(exist_ok=True)
        planted.write_text("{}")
        closed = [own / "key", *(own / f"project.db{suffix}" for suffix in ("", "-wal", "-shm")), planted, other]
        places = {"CLOSED": list(map(str, closed)), "CONTROL": str(project_folder / OPEN)}
        text = ATTACK.replace("PLACES", json.dumps(places))
        action = checkout / "components" / "depot" / "actions" / "spy-here" / "spy-here.mjs"
        action.parent.mkdir()
        action.write_text(text + ACTION)
        write_sources(checkout, spy_there=text + SOURCE)
        project_folder.chmod(mode)
        with serving(project_folder, "served.ipynb", "--egress", "deny") as (line, _):
            assert all(place.stat().st_size for place in closed)  # otherwise nothing could be read
            headers = {"Authorization": f"Bearer {token}", "x-pd-environment": "development"}
            with httpx.Client(headers=headers, timeout=60) as http:
                yield Site(http, f"{line['url']}/v1/connect/{project.project_id}")


@pytest.fixture(scope="module", params=[0o755, 0o700], ids=["open", "closed"])
def site(base: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server of a project in a folder that all users may read, and in one that is closed to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STEP_PATHS_VARIABLE, "")  # otherwise steps of root keep its user
        patch.setenv("PLANTED", ADMIN)
        with _site(base / f"components-{request.param:o}", mode=request.param) as site:
            yield site


def assert_walls_hold(seen: Any) -> None:
    """Nothing was found, although the same accesses to a file that components may read succeed."""
    assert seen["found"] == [], seen["where"]
    assert {"path", "link", "link_to_folder", "relative_link", "dots", "root", "thread", "copy", "child"} <= set(
        seen["control"]
    ), seen["where"]


def test_an_action_reads_nothing_of_the_project(site: Site) -> None:
    """Neither the key, the database, a recording, another project's variables, nor the environment of the server."""
    answer = site.post("/actions/run", id="depot-spy-here", configured_props={})

    assert_walls_hold(answer["ret"])


def test_options_and_additional_props_read_nothing_of_the_project(site: Site) -> None:
    """Code of a component that runs for a form has the walls of an action."""
    options = site.post("/components/configure", id="depot-spy-here", prop_name="choice", configured_props={})
    props = site.post("/components/props", id="depot-spy-here", configured_props={"more": "x"})
    extra = next(prop for prop in props["dynamicProps"]["configurableProps"] if prop["name"] == "extra")

    assert_walls_hold(json.loads(options["options"][0]["value"]))
    assert_walls_hold(json.loads(extra["description"]))


def test_the_description_of_a_component_reads_nothing_of_the_project(site: Site) -> None:
    """Code of a component's module runs when the component is described, before there is a user."""
    component = site.http.get(f"{site.api}/components/depot-spy-here").json()["data"]
    ahead = next(prop for prop in component["configurable_props"] if prop["name"] == "ahead")

    assert json.loads(ahead["description"])["found"] == []


def test_a_deployed_trigger_reads_nothing_of_the_project(site: Site) -> None:
    """Neither in a hook nor in a run."""
    made = site.post("/triggers/deploy", id="depot-spy-there", configured_props={})["data"]
    site.http.post(made["configured_props"]["http"]["endpoint_url"], json={}).raise_for_status()

    seen = site.wait_for_events(made["id"], "hook deploy", "run of a source")

    assert {"hook deploy", "run of a source"} <= seen.keys()
    for each in seen.values():
        assert_walls_hold(each)
