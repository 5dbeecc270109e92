"""Steps that use pre-built actions, from a folder, as the engine runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdkernel.actions import Catalog
from pdkernel.actions.source_settings import ActionSettings, format_sources
from pdkernel.engine.run_request import TestOptions
from pdkernel.model import Step
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout
from tests.actions.test_builtin import action
from tests.builders import a_workflow, python_step
from tests.engine.conftest import Run, error_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

PUT = "shelf: s1\nthing: box\n"


@pytest.fixture
def folder(project: Project, tmp_path: Path) -> Path:
    """A checkout that is the project's source of actions."""
    checkout = write_checkout(tmp_path / "checkout")
    ActionSettings(project.settings).set_sources([str(checkout)], base=tmp_path)
    return checkout


@pytest.fixture
def ada(connect: Callable[..., str]) -> str:
    """Ada, with a depot account."""
    return connect("ada", app="depot", credentials={"api_key": "key-0123456789"})


async def test_action_runs_with_the_external_users_account(run: Run, folder: Path, ada: str) -> None:
    """An app prop of an action is the external user's account; its credential is redacted in the record, which names the source."""
    execution = await run(action("depot-put-thing@0.1.2", PUT), external_user_id="ada")

    step = execution.step("act")
    assert step.status == "success", step.error
    value = step.return_value
    assert isinstance(value, dict)
    assert (value["shelf"], value["thing"], value["count"], value["note"]) == ("s1", "box", 1, None)
    assert "key-0123456789" not in str(execution.to_json())
    assert [(use.prop, use.app, use.id) for use in step.accounts] == [("depot", "depot", ada)]
    assert step.source == step.to_json()["source"] == "folder components/depot"


async def test_account_of_your_own(run: Run, folder: Path, connect: Callable[..., str]) -> None:
    """`authProvisionId` in the body, and `--app depot=apn_...` on the line, are accounts of your own."""
    own = connect(None, app="depot", credentials={"api_key": "own-0123456789"}, account_id="apn_own1234")

    in_body = await run(action("depot-put-thing@0.1.2", PUT + f"depot:\n  authProvisionId: {own}\n"))
    on_line = await run(action("depot-put-thing@0.1.2", PUT, options=f"--app depot={own}"))

    assert [use.owner for use in in_body.step("act").accounts] == ["own"]
    assert [use.owner for use in on_line.step("act").accounts] == ["own"]


ADA = {"external_user_id": "ada"}


@pytest.mark.parametrize(
    ("step", "choices", "code", "texts"),
    [
        (action("depot-put-thing@0.1.2", PUT), {}, "external_user_required", []),
        (
            action("depot-put-thing@0.1.2", "shelf: s1\nthings: box\n"),
            ADA,
            "action_props",
            ["thing (string)", "Did you mean thing?"],
        ),
        (
            action("email-send-email-to-self@0.3.0", "subject: a\ntext: b\nbcc: c\n"),
            {},
            "action_props",
            ["'bcc'", "0.3.0"],
        ),
        (
            action("depot-put-thing@0.1.1", PUT),
            {},
            "action_version",
            ["0.1.2", "--instead-of depot-put-thing@0.1.1"],
        ),
        (
            action("depot-put-things@0.1.2", PUT),
            {},
            "action_not_found",
            ["depot-put-thing@0.1.2", "pdkernel project set actions connect"],
        ),
        (
            action("@acme_team/other_note@0.0.9"),
            {},
            "action_not_found",
            ["{folder}/components/APP/actions/other_note/other_note.mjs"],
        ),
        (action("depot-put-thing@0.1.2", PUT), {"action_sources": ("npm",)}, "licence", []),
    ],
    ids=[
        "no external user",
        "a missing prop",
        "an unknown prop of a built-in action, which another version may have",
        "another version",
        "an unknown action",
        "a private component without its code",
        "a workflow does not accept the licence of npm for its project",
    ],
)
async def test_action_is_refused_before_the_first_step(
    run: Run, folder: Path, ada: str, step: Step, choices: dict[str, Any], code: str, texts: list[str]
) -> None:
    """The message names what is missing, similar names and the commands or the place that help."""
    execution = await run(python_step("first"), step, **choices)

    assert execution.error is not None
    assert execution.error.code == code
    assert [text for text in texts if text.format(folder=folder) not in execution.error.message] == []
    assert (execution.step("first").status, execution.step("act").status) == ("not_run", "not_run")


async def test_props_are_evaluated(run: Run, folder: Path, ada: str) -> None:
    """`{{ }}` in a prop keeps its type when it is the whole value."""
    step = action(
        "depot-put-thing@0.1.2", "shelf: s1\nthing: a {{steps.trigger.event.body.name}}\ncount: '{{2 + 3}}'\n"
    )

    execution = await run(step, external_user_id="ada")

    value = execution.step("act").return_value
    assert isinstance(value, dict)
    assert (value["thing"], value["count"]) == ("a Ada", 5)


async def test_unknown_prop_is_a_warning(run: Run, folder: Path, ada: str) -> None:
    """An undeclared prop of an action that is not built in is a warning."""
    execution = await run(action("depot-put-thing@0.1.2", PUT + "nots: x\n"), external_user_id="ada")

    assert execution.status == "success"
    assert "has no prop 'nots'" in "".join(log.text for log in execution.step("act").logs)


async def test_added_props(run: Run, folder: Path, ada: str) -> None:
    """The action receives the values of props that it adds depending on other props."""
    step = action("depot-fill-form@0.0.1", "columns: 2\ncol_0: a\ncol_1: b\n")

    execution = await run(step, external_user_id="ada")

    assert execution.step("act").return_value == {"col_0": "a", "col_1": "b"}


async def test_component_that_cannot_be_loaded(run: Run, folder: Path) -> None:
    """A component whose import fails fails at its step; the steps above it ran, and the record is complete."""
    execution = await run(python_step("first"), action("depot-broken@0.0.1"), python_step("last"))

    assert [step.status for step in execution.steps] == ["success", "error", "skipped"]
    error = execution.step("act").error
    assert error is not None
    assert "a-package-that-is-not-installed" in error.message


async def test_another_version_by_choice(run: Run, folder: Path, ada: str, project: Project) -> None:
    """A replacement version chosen for a missing version runs, and the record names both."""
    Catalog.for_project(project, environ={}).lock.override_version("depot-put-thing@0.1.1", "0.1.2")

    execution = await run(action("depot-put-thing@0.1.1", PUT), external_user_id="ada")

    assert execution.status == "success"
    assert execution.step("act").source == "folder components/depot, version 0.1.2 instead of 0.1.1"


async def test_private_component(run: Run) -> None:
    """A private component of a workspace has its own error, since its code is at Pipedream only."""
    error = error_of(await run(action("@acme/send-thing@0.0.1")))

    assert "private component" in error.message


async def test_private_component_from_a_folder(
    run: Run, project: Project, folder: Path, connect: Callable[..., str]
) -> None:
    """A private key with underscores runs from its module in the folder; the app is the one that its code declares."""
    module = folder / "components/depot/actions/store_note/store_note.mjs"
    module.parent.mkdir()
    module.write_text(
        'import depot from "../../depot.app.mjs";\n'
        'export default { key: "store_note", version: "0.0.9", type: "action",\n'
        '  props: { store: depot, text: { type: "string" } },\n'
        "  async run() { return [this.text, this.store.key().length] } };\n"
    )
    own = connect(None, app="depot", credentials={"api_key": "own-0123456789"}, account_id="apn_own1234")
    step = action("@acme_team/store_note@0.0.9", "text: hi\n", options=f"--app store:unknown={own}")

    execution = await run(step)
    other = await run(action("@acme_team/store_note@0.1.0", "text: hi\n"))

    assert execution.status == "success", execution.error
    assert execution.step("act").return_value == ["hi", len("own-0123456789")]
    assert [(use.prop, use.app) for use in execution.step("act").accounts] == [("store", "depot")]
    assert Catalog.for_project(project, environ={}).resolve("@acme_team/store_note", None).app == "depot"
    assert other.error is not None
    assert "has version 0.0.9 of @acme_team/store_note" in other.error.message


async def test_incomplete_packages_beside_a_component(run: Run, folder: Path, ada: str) -> None:
    """The error names the package that needs the missing one, and the command that completes the packages."""
    module = folder / "components/depot/actions/put-thing/put-thing.mjs"
    module.write_text('import "get-shelf";\n' + module.read_text())
    package = folder / "node_modules" / "get-shelf"
    package.mkdir(parents=True)
    (package / "package.json").write_text('{"main": "index.js", "dependencies": {"async-shelf": "^1.0.0"}}')
    (package / "index.js").write_text('require("async-shelf");\n')

    error = error_of(await run(action("depot-put-thing@0.1.2", PUT), external_user_id="ada"), "act")

    assert "The package 'get-shelf' needs 'async-shelf', which is not installed." in error.message
    assert "run: npm install" in error.message


async def test_action_without_a_version(run: Run, folder: Path, ada: str) -> None:
    """The newest version that the source has runs and is locked, and the record has it; a later version is refused."""
    execution = await run(action("depot-put-thing", PUT), external_user_id="ada")
    module = folder / "components/depot/actions/put-thing/put-thing.mjs"
    module.write_text(module.read_text().replace('version: "0.1.2"', 'version: "0.2.0"'))
    refused = await run(action("depot-put-thing", PUT), external_user_id="ada")
    built_in = await run(action("filter-end-workflow", "reason: done\n"))

    assert execution.status == "success", execution.error
    assert execution.step("act").source == "folder components/depot, version 0.1.2, because the step names none"
    assert refused.error is not None
    assert refused.error.code == "action_version"
    assert "pdkernel actions add depot-put-thing@0.2.0 --instead-of depot-put-thing" in refused.error.message
    assert "because the step names none" in (built_in.step("act").source or "")


async def test_disabled_and_pinned_actions_need_no_source(run: Run) -> None:
    """An action step that does not run needs no source."""
    workflow = a_workflow(
        action("unavailable-first@0.0.1", name="off", options="--disabled"),
        action("unavailable-second@0.0.1", name="fixed"),
        python_step("last"),
    )

    execution = await run(workflow, options=TestOptions(pinned_exports={"fixed": {"$return_value": 1}}))

    assert execution.status == "success"


async def test_the_workflow_overrides_the_source(run: Run, project: Project, tmp_path: Path, ada: str) -> None:
    """The source in a workflow's `pdkernel.yaml` overrides the project's source; a folder is relative to that file."""
    write_checkout(tmp_path / "beside")

    execution = await run(action("depot-put-thing@0.1.2", PUT), external_user_id="ada", action_sources=("beside",))

    assert execution.step("act").source == "folder components/depot"
    assert format_sources(ActionSettings(project.settings).sources) == "builtin"


BRAZE = {
    "braze.app.mjs": """
export default {
  type: "app",
  app: "braze",
  propDefinitions: {
    campaignId: { type: "string", label: "Campaign ID", description: "An API-triggered campaign." },
  },
  methods: {
    _baseUrl() {
      return this.$auth.instance_url;
    },
    _headers() {
      return { "Authorization": `Bearer ${this.$auth.api_key}`, "Content-Type": "application/json" };
    },
    async _makeRequest({ path, method = "GET", params, data }) {
      const query = params ? `?${new URLSearchParams(params)}` : "";
      const options = { method, headers: this._headers(), body: data && JSON.stringify(data) };
      const response = await fetch(this._baseUrl() + path + query, options);
      if (!response.ok) throw new Error(JSON.stringify(await response.json()));
      return response.json();
    },
    triggerCampaign(opts) {
      return this._makeRequest({ path: "/campaigns/trigger/send", method: "POST", ...opts });
    },
    getScheduledMessages(opts) {
      return this._makeRequest({ path: "/messages/scheduled_broadcasts", ...opts });
    },
  },
};
""",
    "actions/trigger-campaign/trigger-campaign.mjs": """
import app from "../../braze.app.mjs";
import { parseObject } from "../../common/utils.mjs";

export default {
  key: "braze-trigger-campaign",
  name: "Trigger Campaign",
  description: "Sends a campaign. [See the documentation](https://www.braze.com/docs/api/endpoints/messaging/send_messages/post_send_triggered_campaigns/)",
  version: "0.0.2",
  annotations: { destructiveHint: false, openWorldHint: true, readOnlyHint: false },
  type: "action",
  props: {
    app,
    campaignId: { propDefinition: [app, "campaignId"] },
    recipients: { type: "string[]", label: "Recipients", description: "Each as JSON." },
    triggerProperties: { type: "object", label: "Trigger Properties", optional: true },
    broadcast: { type: "boolean", label: "Broadcast", default: false },
  },
  async run({ $ }) {
    const response = await this.app.triggerCampaign({
      $,
      data: {
        campaign_id: this.campaignId,
        recipients: parseObject(this.recipients),
        trigger_properties: this.triggerProperties,
        broadcast: this.broadcast,
      },
    });
    $.export("$summary", `Sent campaign ${this.campaignId} as ${response.dispatch_id}`);
    return response;
  },
};
""",
    "actions/get-scheduled-messages/get-scheduled-messages.mjs": """
import app from "../../braze.app.mjs";

export default {
  key: "braze-get-scheduled-messages",
  name: "Get Scheduled Messages",
  description: "Lists what is scheduled. [See the documentation](https://www.braze.com/docs/api/endpoints/messaging/schedule_messages/get_messages_scheduled/)",
  version: "0.0.1",
  type: "action",
  props: { app, endTime: { type: "string", label: "End Time" } },
  async run({ $ }) {
    const { scheduled_broadcasts: found } = await this.app.getScheduledMessages({ $, params: { end_time: this.endTime } });
    $.export("$summary", `Found ${found.length} messages`);
    return found;
  },
};
""",
    "common/utils.mjs": "export const parseObject = (values) => values.map((value) => JSON.parse(value));\n",
}


def answer_as_braze(request: SentRequest) -> Answer:
    """Answers as the REST API: `/campaigns/trigger/send` and `/messages/scheduled_broadcasts`."""
    if request.headers["authorization"] != "Bearer braze-0123456789":
        return 401, {"message": "Invalid API key"}
    if (request.method, request.path) == ("POST", "/campaigns/trigger/send"):
        known = request.json()["campaign_id"] == "c1"
        return (201, {"dispatch_id": "d1", "message": "success"}) if known else (400, {"message": "Invalid campaign"})
    if request.path == "/messages/scheduled_broadcasts?end_time=2026-12-24T00%3A00%3A00Z":
        broadcast = {"name": "Sale", "id": "b1", "type": "Campaign", "tags": [], "schedule_type": "local_time_zones"}
        return 200, {"message": "success", "scheduled_broadcasts": [broadcast]}
    return 404, {"message": "No such endpoint"}


async def test_actions_of_braze(run: Run, project: Project, connect: Callable[..., str], tmp_path: Path) -> None:
    """Actions in the shape of public ones send a campaign and list what is scheduled, each with the account's host and key."""
    for name, text in BRAZE.items():
        path = tmp_path / "checkout" / "components" / "braze" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    ActionSettings(project.settings).set_sources([str(tmp_path / "checkout")], base=tmp_path)
    credentials = {"api_key": "braze-0123456789", "instance_url": "https://rest.iad-01.braze.com"}
    connect("ada", app="braze", credentials=credentials)
    send = action(
        "braze-trigger-campaign@0.0.2",
        """campaignId: c1
recipients:
- '{"external_user_id": "{{steps.trigger.event.body.name}}", "trigger_properties": {"total": 7}}'
triggerProperties:
  season: winter
""",
        name="send",
    )
    listing = action("braze-get-scheduled-messages@0.0.1", "endTime: '2026-12-24T00:00:00Z'\n", name="listing")

    with serve(AnsweringServer(answer_as_braze)) as api:
        done = await run(send, listing, egress=f"stand-in={api.url}", external_user_id="ada")

    assert done.status == "success", done.error
    assert api.requests[0].json() == {
        "campaign_id": "c1",
        "recipients": [{"external_user_id": "Ada", "trigger_properties": {"total": 7}}],
        "trigger_properties": {"season": "winter"},
        "broadcast": False,
    }
    assert {call.headers["x-forwarded-host"] for call in api.requests} == {"rest.iad-01.braze.com"}
    assert done.step("send").exports == {
        "$summary": "Sent campaign c1 as d1",
        "$return_value": {"dispatch_id": "d1", "message": "success"},
    }
    assert done.step("listing").exports["$summary"] == "Found 1 messages"
    assert "braze-0123456789" not in str(done.to_json())


TYPESCRIPT = {
    "feeds/app/feeds.app.ts": """
import { defineApp } from "@pipedream/types";
import { Feed, FeedKind, Ranked } from "../common/types";

enum Order { Newest = 1, Oldest }

export default defineApp({
  type: "app",
  app: "feeds",
  propDefinitions: { url: { type: "string", label: "URL", description: "The feed." } },
  methods: {
    first(feeds: Feed[]): Feed | undefined { return feeds.sort((a, b) => a.rank - b.rank)[0]; },
    ranked(feed: Feed): Ranked { return { ...feed, name: `Ranked by ${feed.rank}` }; },
    order(): number { return Order.Oldest + FeedKind.length; },
  },
});
""",
    "feeds/common/types.ts": 'export interface Feed { rank: number }\nexport type Ranked = Feed;\ntype Own = Feed;\nexport { Own };\nexport const FeedKind = ["rss"];\n',
    "feeds/common/index.ts": "export const limit: number = 2;\n",
    "feeds/actions/merge-feeds/merge-feeds.ts": """
import { defineAction } from "@pipedream/types";
import app from "../../app/feeds.app";
import { limit } from "../../common";
import type { Feed } from "../../common/types.js";
import shared from "@pipedream/shared_things";
import { add } from "@pipedream/shared_things/common/add.mjs";

export default defineAction({
  key: "feeds-merge-feeds",
  name: "Merge Feeds",
  description: "Merges feeds.",
  version: "1.2.3",
  type: "action",
  props: { app, url: { propDefinition: [app, "url"] } },
  async run({ $ }): Promise<unknown> {
    const feeds: Feed[] = [{ rank: 2 }, { rank: 1 }];
    return [this.url, this.app.first(feeds), this.app.order(), limit, shared.methods.name(), add(1, 2)];
  },
});
""",
    "shared_things/package.json": '{"name": "@pipedream/shared_things", "main": "shared_things.app.mjs"}',
    "shared_things/shared_things.app.mjs": 'export default { type: "app", app: "shared_things", methods: { name: () => "shared" } };\n',
    "shared_things/common/add.mjs": "export const add = (a, b) => a + b;\n",
}


async def test_typescript_component_of_a_checkout(run: Run, folder: Path, connect: Callable[..., str]) -> None:
    """A component in TypeScript runs: with types, enums, imports of types and without suffixes, and those of another app."""
    for name, text in TYPESCRIPT.items():
        path = folder / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    connect("ada", app="feeds", credentials={"api_key": "key-0123456789"})

    execution = await run(action("feeds-merge-feeds@1.2.3", "url: https://x.example\n"), external_user_id="ada")

    step = execution.step("act")
    assert step.status == "success", step.error
    assert step.return_value == ["https://x.example", {"rank": 1}, 3, 2, "shared", 3]
    assert [use.prop for use in step.accounts] == ["app"]


async def test_channel_of_a_discord_server_is_its_id(run: Run, folder: Path) -> None:
    """A prop for a channel, or a list of channels, of a Discord server has the id that the form holds."""
    module = folder / "components" / "talk" / "actions" / "say-it" / "say-it.mjs"
    module.parent.mkdir(parents=True)
    module.write_text("""
export default {
  key: "talk-say-it", name: "Say it", description: "Says it.", version: "0.0.1", type: "action",
  props: { channel: { type: "$.discord.channel" }, more: { type: "$.discord.channel[]" } },
  async run() { return [this.channel, this.more]; },
};
""")

    execution = await run(action("talk-say-it@0.0.1", "channel: '123'\nmore: ['4', '5']\n"))

    assert execution.step("act").return_value == ["123", ["4", "5"]], execution.error
