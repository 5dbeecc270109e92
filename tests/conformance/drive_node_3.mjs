// Drives the JavaScript SDK, 2.x and 3.x: one line of JSON for each check, {check, ok, detail}.
// Settings come as JSON on standard input. Knows nothing of pdkernel.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { PipedreamClient } from "@pipedream/sdk";
import { createFrontendClient } from "@pipedream/sdk/browser";

const given = JSON.parse(readFileSync(0, "utf8"));
const client = (projectEnvironment) =>
  new PipedreamClient({
    clientId: given.client_id,
    clientSecret: given.client_secret,
    projectId: given.project_id,
    projectEnvironment,
    baseUrl: given.url,
    environment: given.url, // what releases up to 2.3.8 read instead
    workflowDomain: new URL(given.url).hostname,
  });
const pd = client("development");
const all = async (page) => {
  const found = [];
  for await (const each of await page) found.push(each);
  return found;
};
const depot = { depot: { authProvisionId: "apn_adadepot" } };
const body = { message: "Hello World" };
const refused = async (call) => {
  try {
    await call();
  } catch (error) {
    // the SDK keeps the status and drops the body
    return `${error.statusCode} ${error.body ?? ""}`;
  }
  throw new Error("not refused");
};
const invoke = (pd, externalUserId) =>
  pd.workflows.invokeForExternalUser({ urlOrEndpoint: given.workflow, externalUserId, body });

const checks = {
  async token() {
    return String((await pd.rawAccessToken).length > 20);
  },
  async private_key() {
    return null; // JavaScript has no option for it
  },
  async users() {
    if (!pd.users.list) return null; // releases up to 2.2.0
    const found = (await all(pd.users.list({ limit: 1 }))).map((user) => user.externalId);
    assert(found.includes("ada") && found.includes("bob") && !found.includes("grace"), String(found));
    return found.join(", ");
  },
  async accounts() {
    const found = await all(pd.accounts.list({ externalUserId: "ada", includeCredentials: true, limit: 1 }));
    assert.deepEqual(new Set(found.map((each) => each.id)), new Set(["apn_adaslack", "apn_adadepot"]));
    const slack = found.find((each) => each.id === "apn_adaslack");
    assert.equal((slack.credentials.oauth_access_token ?? slack.credentials.oauthAccessToken), "xoxb-conformance-ada");
    const one = await pd.accounts.retrieve("apn_adaslack");
    assert.deepEqual([one.externalId, one.app.nameSlug, one.credentials], ["ada", "slack", undefined]);
    return found.map((each) => each.id).join(", ");
  },
  async connect_token() {
    const made = await pd.tokens.create({ externalUserId: given.newcomer });
    const told = await pd.tokens.validate(made.token, { appId: "slack" });
    assert.equal(told.success, true);
    assert.equal(told.app.nameSlug, "slack");
    return made.connectLinkUrl;
  },
  async linked() {
    const [account, ...more] = await all(pd.accounts.list({ externalUserId: given.newcomer }));
    assert.deepEqual([account.app.nameSlug, more.length], ["slack", 0]);
    await pd.accounts.delete(account.id);
    await pd.users.deleteExternalUser(given.newcomer);
    return account.id;
  },
  async page() {
    const page = createFrontendClient({
      externalUserId: "ada",
      tokenCallback: () => pd.tokens.create({ externalUserId: "ada" }),
      baseUrl: given.url,
      environment: given.url,
    });
    const found = await all(page.accounts.list({ includeCredentials: true, limit: 1 }));
    assert.deepEqual(new Set(found.map((each) => each.id)), new Set(["apn_adaslack", "apn_adadepot"]));
    assert(found.every((each) => !each.credentials));
    const told = await page.actions.configureProp({
      id: "depot-put-thing", externalUserId: "ada", propName: "shelf", configuredProps: depot,
    });
    assert.equal(told.options[0].label, "Shelf 00 of ada");
    const who = { externalUserId: "ada", accountId: "apn_adaslack" };
    const answer = await page.proxy.get({ url: "https://slack.com/api/users.list", ...who });
    assert.equal((answer.data ?? answer).ok, true);
    return found.map((each) => each.id).join(", ");
  },
  async apps() {
    const found = (await all(pd.apps.list({ q: "slack" }))).map((app) => app.nameSlug);
    assert(found.includes("slack"), String(found));
    return (await pd.apps.retrieve("slack")).data.name;
  },
  async actions() {
    const found = (await all(pd.actions.list({ app: "depot" }))).map((action) => action.key);
    assert(found.includes("depot-put-thing"), String(found));
    const one = (await pd.actions.retrieve("depot-put-thing")).data;
    assert.deepEqual(one.configurableProps.map((prop) => prop.name), ["depot", "shelf", "thing", "count", "note"]);
    return found.join(", ");
  },
  async configure() {
    const told = await pd.actions.configureProp({
      id: "depot-put-thing", externalUserId: "ada", propName: "shelf", configuredProps: depot,
    });
    assert.equal(told.options[0].label, "Shelf 00 of ada");
    return told.options[0].label;
  },
  async reload_props() {
    const told = await pd.actions.reloadProps({
      id: "depot-fill-form", externalUserId: "ada", configuredProps: { ...depot, columns: 2 },
    });
    const names = told.dynamicProps.configurableProps.map((prop) => prop.name);
    assert.deepEqual(names.slice(-2), ["col_0", "col_1"]);
    return names.join(", ");
  },
  async run() {
    const ran = await pd.actions.run({
      id: "depot-put-thing", externalUserId: "ada", configuredProps: { ...depot, shelf: "s00", thing: "box" },
    });
    assert.equal(ran.ret.thing, "box");
    assert.equal(ran.exports.$summary, "Put box on s00");
    return ran.exports.$summary;
  },
  async proxy() {
    const told = await pd.proxy.post({
      url: "https://slack.com/api/chat.postMessage",
      externalUserId: "ada",
      accountId: "apn_adaslack",
      body: { channel: "#general", text: "hello" },
      headers: { "x-note": "1" },
      params: { pretty: "1" },
    });
    assert.equal(told.ok, true);
    assert.equal(told.message.text, "hello");
    return told.ts;
  },
  async trigger() {
    const triggers = pd.deployedTriggers;
    const me = { externalUserId: "ada" };
    const made = await pd.triggers.deploy({ id: "depot-new-thing", configuredProps: {}, emitOnDeploy: false, ...me });
    const key = made.data.id;
    try {
      const told = (await triggers.update(key, { active: false, name: "Mine", ...me })).data;
      assert.deepEqual([told.active, told.name], [false, "Mine"]);
      assert.equal((await triggers.retrieve(key, me)).data.id, key);
      assert.deepEqual((await triggers.listEvents(key, { n: 5, ...me })).data, []);
      const workflowIds = [given.workflow_id];
      assert.deepEqual((await triggers.updateWorkflows(key, { workflowIds, ...me })).workflowIds, workflowIds);
      assert.deepEqual((await triggers.listWorkflows(key, me)).workflowIds, workflowIds);
      const webhookUrls = ["https://example.com/a"];
      const hooks = await triggers.updateWebhooks(key, { webhookUrls, ...me });
      assert.deepEqual(hooks.webhookUrls, webhookUrls);
      assert.deepEqual((await triggers.listWebhooks(key, me)).webhookUrls, webhookUrls);
      if (typeof triggers.regenerateWebhookSigningKey === "function") {
        const [hook] = hooks.webhooks;
        const fresh = (await triggers.regenerateWebhookSigningKey(key, hook.id, me)).data;
        assert(fresh.signingKey && fresh.signingKey !== hook.signingKey);
        assert.equal((await triggers.retrieveWebhook(key, hook.id, me)).data.signingKey, fresh.signingKey);
      }
    } finally {
      await triggers.delete(key, me);
    }
    return key;
  },
  async woken() {
    const me = { externalUserId: "ada" };
    const { data } = await pd.triggers.deploy({ id: "depot-new-call", configuredProps: {}, ...me });
    const url = data.configuredProps.http.endpoint_url ?? data.configuredProps.http.endpointUrl;
    try {
      const headers = { "content-type": "application/json" };
      const called = await fetch(url, { method: "POST", headers, body: JSON.stringify({ say: "hello" }) });
      assert.equal(called.status, 200);
      let events = [];
      for (let tries = 0; tries < 300 && !events.length; tries++) {
        events = (await pd.deployedTriggers.listEvents(data.id, me)).data;
        await new Promise((done) => setTimeout(done, 50));
      }
      assert.deepEqual(events.map((event) => event.e), [{ said: "hello" }]);
    } finally {
      await pd.deployedTriggers.delete(data.id, me);
    }
    return url;
  },
  async project() {
    const found = (await pd.projects.retrieveInfo()).apps.map((app) => app.nameSlug);
    assert(found.includes("slack") && found.includes("depot"), String(found));
    return found.join(", ");
  },
  async deploy() {
    const { data } = await pd.triggers.deploy({
      id: "depot-new-thing",
      externalUserId: "ada",
      configuredProps: {},
      webhookUrl: "https://example.com/hook",
      emitOnDeploy: false,
    });
    const ids = async () => (await all(pd.deployedTriggers.list({ externalUserId: "ada" }))).map((each) => each.id);
    assert((await ids()).includes(data.id));
    await pd.deployedTriggers.delete(data.id, { externalUserId: "ada" });
    assert(!(await ids()).includes(data.id));
    return data.id;
  },
  async invoke() {
    // the SDK hands on status and headers, and drops the body (3.1.6)
    const answer = await invoke(pd, "ada");
    assert.deepEqual([answer.status, answer.headers.get("x-greeting")], [200, "Hello World to ada by ada"]);
    return answer.headers.get("x-greeting");
  },
  no_user: () => refused(() => pd.workflows.invoke({ urlOrEndpoint: given.workflow, body }, "oauth")),
  unknown_user: () => refused(() => invoke(pd, "nobody")),
  no_account: () => refused(() => invoke(pd, "bob")),
  plan: () => refused(() => invoke(client("production"), "grace")),
};

for (const check of given.checks) {
  try {
    console.log(JSON.stringify({ check, ok: true, detail: await checks[check]() }));
  } catch (error) {
    console.log(JSON.stringify({ check, ok: false, detail: `${error.name}: ${error.message} ${error.stack ?? ""}` }));
  }
}
