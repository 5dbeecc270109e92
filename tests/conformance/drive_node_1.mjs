// Drives the JavaScript SDK, 1.x, which is the one of the source page and speaks TLS only: one line of JSON for each
// check, {check, ok, detail}. Settings come as JSON on standard input. Knows nothing of pdkernel.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createBackendClient, HTTPAuthType } from "@pipedream/sdk/server";

const given = JSON.parse(readFileSync(0, "utf8"));
const { host, hostname } = new URL(given.url);
const client = (environment) =>
  createBackendClient({
    apiHost: host,
    workflowDomain: hostname,
    environment,
    projectId: given.project_id,
    credentials: { clientId: given.client_id, clientSecret: given.client_secret },
  });
const pd = client("development");
const depot = { depot: { authProvisionId: "apn_adadepot" } };
const request = { method: "POST", body: { message: "Hello World" } };
const absent = (name) => typeof pd[name] !== "function";
const refused = async (call) => {
  try {
    await call();
  } catch (error) {
    const told = /HTTP error! status: (\d+), body: ([^]*)/.exec(error.message);
    return told ? `${told[1]} ${told[2]}` : error.message;
  }
  throw new Error("not refused");
};

const checks = {
  async token() {
    if (absent("rawAccessToken")) return null;
    return String((await pd.rawAccessToken()).length > 20);
  },
  async private_key() {
    return null; // JavaScript has no option for it
  },
  async users() {
    return null; // 1.x has no call for it
  },
  async accounts() {
    const { data } = await pd.getAccounts({ external_user_id: "ada", include_credentials: true });
    assert.deepEqual(new Set(data.map((each) => each.id)), new Set(["apn_adaslack", "apn_adadepot"]));
    assert.equal(data.find((each) => each.id === "apn_adaslack").credentials.oauth_access_token, "xoxb-conformance-ada");
    const one = await pd.getAccountById("apn_adaslack");
    assert.deepEqual([one.external_id, one.app.name_slug, one.credentials], ["ada", "slack", undefined]);
    return data.map((each) => each.id).join(", ");
  },
  async connect_token() {
    const made = await pd.createConnectToken({ external_user_id: given.newcomer });
    assert.match(made.token, /^ctok_[0-9a-f]{32}$/);
    return made.connect_link_url;
  },
  async linked() {
    const { data } = await pd.getAccounts({ external_user_id: given.newcomer });
    assert.deepEqual(data.map((each) => each.app.name_slug), ["slack"]);
    await pd.deleteAccount(data[0].id);
    await pd.deleteExternalUser(given.newcomer);
    return data[0].id;
  },
  async page() {
    if (absent("configureComponent")) return null;
    const { createFrontendClient } = await import("@pipedream/sdk/browser"); // the oldest have none that Node can load
    const page = createFrontendClient({
      externalUserId: "ada",
      tokenCallback: () => pd.createConnectToken({ external_user_id: "ada" }),
      apiHost: host,
    });
    const { data } = await page.getAccounts({ include_credentials: true });
    assert.deepEqual(new Set(data.map((each) => each.id)), new Set(["apn_adaslack", "apn_adadepot"]));
    assert(data.every((each) => !each.credentials));
    const told = await page.configureComponent({
      externalUserId: "ada", componentId: { key: "depot-put-thing" }, propName: "shelf", configuredProps: depot,
    });
    assert.equal(told.options[0].label, "Shelf 00 of ada");
    return data.map((each) => each.id).join(", ");
  },
  async apps() {
    if (absent("getApps")) return null;
    const { data } = await pd.getApps({ q: "slack" });
    assert(data.some((app) => app.name_slug === "slack"));
    return (await pd.getApp("slack")).data.name;
  },
  async actions() {
    if (absent("getComponents")) return null;
    const { data } = await pd.getComponents({ app: "depot", componentType: "action" });
    assert(data.some((action) => action.key === "depot-put-thing"));
    const one = (await pd.getComponent({ key: "depot-put-thing" })).data;
    assert.deepEqual(one.configurable_props.map((prop) => prop.name), ["depot", "shelf", "thing", "count", "note"]);
    return data.map((action) => action.key).join(", ");
  },
  async configure() {
    if (absent("configureComponent")) return null;
    const told = await pd.configureComponent({
      externalUserId: "ada", componentId: { key: "depot-put-thing" }, propName: "shelf", configuredProps: depot,
    });
    assert.equal(told.options[0].label, "Shelf 00 of ada");
    return told.options[0].label;
  },
  async reload_props() {
    if (absent("reloadComponentProps")) return null;
    const told = await pd.reloadComponentProps({
      externalUserId: "ada", componentId: { key: "depot-fill-form" }, configuredProps: { ...depot, columns: 2 },
    });
    const names = told.dynamicProps.configurableProps.map((prop) => prop.name);
    assert.deepEqual(names.slice(-2), ["col_0", "col_1"]);
    return names.join(", ");
  },
  async run() {
    if (absent("runAction")) return null;
    const ran = await pd.runAction({
      externalUserId: "ada", actionId: { key: "depot-put-thing" },
      configuredProps: { ...depot, shelf: "s00", thing: "box" },
    });
    assert.equal(ran.ret.thing, "box");
    return ran.exports.$summary;
  },
  async proxy() {
    if (absent("makeProxyRequest")) return null;
    const told = await pd.makeProxyRequest(
      { searchParams: { external_user_id: "ada", account_id: "apn_adaslack" } },
      {
        url: "https://slack.com/api/chat.postMessage?pretty=1",
        options: {
          method: "POST",
          headers: { "x-note": "1" },
          body: JSON.stringify({ channel: "#general", text: "hello" }),
        },
      },
    );
    assert.equal(told.ok, true);
    assert.equal(told.message.text, "hello");
    return told.ts;
  },
  async trigger() {
    if (absent("updateTrigger") || absent("updateTriggerWebhooks")) return null;
    const me = { externalUserId: "ada" };
    const made = await pd.deployTrigger({ triggerId: { key: "depot-new-thing" }, configuredProps: {}, ...me });
    const id = made.data.id;
    try {
      const told = (await pd.updateTrigger({ id, active: false, name: "Mine", ...me })).data;
      assert.deepEqual([told.active, told.name], [false, "Mine"]);
      assert.equal((await pd.getTrigger({ id, ...me })).data.id, id);
      assert(Array.isArray((await pd.getTriggerEvents({ id, limit: 5, ...me })).data));
      const workflowIds = [given.workflow_id];
      assert.deepEqual((await pd.updateTriggerWorkflows({ id, workflowIds, ...me })).workflow_ids, workflowIds);
      assert.deepEqual((await pd.getTriggerWorkflows({ id, ...me })).workflow_ids, workflowIds);
      const webhookUrls = ["https://example.com/a"];
      assert.deepEqual((await pd.updateTriggerWebhooks({ id, webhookUrls, ...me })).webhook_urls, webhookUrls);
      assert.deepEqual((await pd.getTriggerWebhooks({ id, ...me })).webhook_urls, webhookUrls);
    } finally {
      await pd.deleteTrigger({ id, ...me });
    }
    return id;
  },
  async woken() {
    if (absent("deleteTrigger")) return null;
    const me = { externalUserId: "ada" };
    const { data } = await pd.deployTrigger({ triggerId: { key: "depot-new-call" }, configuredProps: {}, ...me });
    const url = data.configured_props.http.endpoint_url;
    try {
      const headers = { "content-type": "application/json" };
      const called = await fetch(url, { method: "POST", headers, body: JSON.stringify({ say: "hello" }) });
      assert.equal(called.status, 200);
      let events = [];
      for (let tries = 0; tries < 300 && !events.length; tries++) {
        events = (await pd.getTriggerEvents({ id: data.id, ...me })).data;
        await new Promise((done) => setTimeout(done, 50));
      }
      assert.deepEqual(events.map((event) => event.e), [{ said: "hello" }]);
    } finally {
      await pd.deleteTrigger({ id: data.id, ...me });
    }
    return url;
  },
  async project() {
    if (absent("getProjectInfo")) return null;
    const found = (await pd.getProjectInfo()).apps.map((app) => app.name_slug);
    assert(found.includes("slack") && found.includes("depot"), String(found));
    return found.join(", ");
  },
  async deploy() {
    if (absent("getTriggers")) return null;
    const { data } = await pd.deployTrigger({
      externalUserId: "ada",
      triggerId: { key: "depot-new-thing" },
      configuredProps: {},
      webhookUrl: "https://example.com/hook",
    });
    const ids = async () => (await pd.getTriggers({ externalUserId: "ada" })).data.map((each) => each.id);
    assert((await ids()).includes(data.id));
    await pd.deleteTrigger({ id: data.id, externalUserId: "ada" });
    assert(!(await ids()).includes(data.id));
    return data.id;
  },
  async invoke() {
    const told = await pd.invokeWorkflowForExternalUser(given.workflow, "ada", request);
    assert.deepEqual(told, { message: "Hello World", user: "ada", account: "ada" });
    return JSON.stringify(told);
  },
  no_user: () => refused(() => pd.invokeWorkflow(given.workflow, request, HTTPAuthType.OAuth)),
  unknown_user: () => refused(() => pd.invokeWorkflowForExternalUser(given.workflow, "nobody", request)),
  no_account: () => refused(() => pd.invokeWorkflowForExternalUser(given.workflow, "bob", request)),
  plan: () => refused(() => client("production").invokeWorkflowForExternalUser(given.workflow, "grace", request)),
};

for (const check of given.checks) {
  try {
    console.log(JSON.stringify({ check, ok: true, detail: await checks[check]() }));
  } catch (error) {
    console.log(JSON.stringify({ check, ok: false, detail: `${error.name}: ${error.message}` }));
  }
}
