// @ts-check
/**
 * `this` and `$`, as a Node.js step sees them.
 *
 * Knows the platform's component API (its documentation): methods bound, props on `this`, an app's `$auth` not
 * enumerable so that nothing that prints or returns the app carries a credential.
 */

import { inspect } from "node:util";
import { NotRunHereError } from "./node_errors.mjs";
import { encode } from "./node_exports.mjs";
import { DataStore } from "./node_store.mjs";

const SOURCES_ONLY = /^\$\./;
const NOT_RUN = new Set(["http_request", "dir", "sql"]);
const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * @typedef {{props: Record<string, any>, auth: Record<string, Record<string, string>>, stores: Record<string, string>}} Values
 * @typedef {object} Voice how `$` reaches the host
 * @property {(name: string, text: string) => void} export
 * @property {(text: string) => void} respond
 * @property {(reason: string | null) => void} exit
 * @property {(text: string) => void} warn
 * @property {(kind: string, text: string) => void} effect
 * @property {(kind: string, text: string) => void} pause
 * @property {(call: string, text: string) => Promise<any>} ask
 */

/**
 * @param {any} component the default export
 * @param {Values} values
 * @param {Voice} voice
 * @returns {any} a fresh `this`
 */
export function instance(component, values, voice) {
  const self = /** @type {any} */ ({});
  bind(self, component.methods);
  for (const [name, fields] of Object.entries(values.auth)) self[name] = app(undefined, fields);
  Object.assign(self, values.props);
  for (const [name, store] of Object.entries(values.stores)) self[name] = new DataStore(store, voice);
  for (const [name, declared] of Object.entries(component.props ?? {})) {
    const prop = resolved(declared);
    if (prop.type === "app") self[name] = app(prop, values.auth[name] ?? values.auth[prop.app]);
    else if (prop.type === "data_store") self[name] ??= new DataStore("", voice); // the host knows of none
    else if (SOURCES_ONLY.test(prop.type) || NOT_RUN.has(prop.type)) {
      throw new NotRunHereError(`A prop of type ${prop.type} (${name})`);
    } else if (self[name] === undefined && "default" in prop) self[name] = structuredClone(prop.default);
  }
  return self;
}

/**
 * @param {any} component
 * @returns {{apps: {prop: string, app: string}[], props: {name: string, type: string, optional: boolean}[]}}
 */
export function declarations(component) {
  const apps = [];
  const props = [];
  for (const [name, declared] of Object.entries(component.props ?? {})) {
    const prop = resolved(declared);
    const type = typeof prop.type === "string" ? prop.type : "any";
    if (type === "app") apps.push({ prop: name, app: String(prop.app) });
    else if (type !== "alert") props.push({ name, type, optional: Boolean(prop.optional) || "default" in prop });
  }
  return { apps, props };
}

/**
 * A prop's definition with the one that it builds on under it.
 *
 * @param {any} declared
 * @returns {any}
 */
function resolved(declared) {
  if (typeof declared === "string") return { type: declared };
  if (!declared || typeof declared !== "object") return { type: "any" };
  const base = declared.propDefinition;
  if (!Array.isArray(base)) return declared;
  const { propDefinition, ...own } = declared;
  return { ...resolved(base[0]?.propDefinitions?.[base[1]]), ...own };
}

/**
 * @param {any} target
 * @param {any} methods
 */
function bind(target, methods) {
  for (const [name, method] of Object.entries(methods ?? {})) {
    target[name] = typeof method === "function" ? method.bind(target) : method;
  }
}

/**
 * @param {any} definition
 * @param {Record<string, string> | undefined} fields
 */
function app(definition, fields) {
  const self = /** @type {any} */ ({});
  bind(self, definition?.methods);
  Object.defineProperty(self, "$auth", { value: { ...fields }, enumerable: false, writable: true, configurable: true });
  return self;
}

/**
 * `steps`, whose values are parsed when they are first read: every step has its own copy of what it reads.
 *
 * @param {string[]} names
 * @param {Map<string, string>} texts JSON by name
 */
export function stepsOf(names, texts) {
  const steps = /** @type {any} */ ({});
  for (const name of names) {
    const text = /** @type {string} */ (texts.get(name));
    Object.defineProperty(steps, name, {
      enumerable: true,
      configurable: true,
      get() {
        const value = JSON.parse(text);
        replace(steps, name, value);
        return value;
      },
      set(value) {
        replace(steps, name, value);
      },
    });
  }
  Object.defineProperty(steps, inspect.custom, { value: () => ({ ...steps }) });
  return steps;
}

/**
 * @param {any} steps
 * @param {string} name
 * @param {any} value
 */
function replace(steps, name, value) {
  Object.defineProperty(steps, name, { value, enumerable: true, configurable: true, writable: true });
}

/**
 * @param {any} context
 * @param {Voice} voice
 * @param {Record<string, string>} urls `resume_url` and `cancel_url` of this step
 * @returns {any} `$`
 */
export function dollar(context, voice, urls) {
  return {
    context,
    send: sends(voice),
    flow: flow(voice, urls),
    get files() {
      throw new NotRunHereError("$.files");
    },
    export(/** @type {any} */ name, /** @type {any} */ value) {
      if (typeof name !== "string" || !name) {
        throw new TypeError(`$.export takes a name first, and ${inspect(name)} is not one`);
      }
      const text = encode(value, name, voice.warn);
      if (text !== undefined) voice.export(name, text);
    },
    respond(/** @type {any} */ response) {
      const { status, headers, body, immediate } = response ?? {};
      if (!Number.isInteger(status)) {
        throw new TypeError("$.respond needs a status that is a whole number: { status: 200, body: ... }");
      }
      const tell = (/** @type {any} */ content) =>
        voice.respond(
          /** @type {string} */ (
            encode(
              {
                status,
                headers: Object.fromEntries(Object.entries(headers ?? {}).map(([key, value]) => [key, String(value)])),
                body: bodyOf(content),
                ...(immediate ? { immediate: true } : {}),
              },
              "respond",
              voice.warn,
            )
          ),
        );
      if (typeof body?.pipe === "function" && typeof body[Symbol.asyncIterator] === "function") {
        return collected(body).then(tell);
      }
      tell(body);
      return Promise.resolve();
    },
  };
}

/**
 * `$.flow`. None of these but `trigger` waits: the host acts when the step has ended (platform documentation).
 *
 * @param {Voice} voice
 * @param {Record<string, string>} urls
 */
function flow(voice, urls) {
  const pause = (/** @type {string} */ kind, /** @type {any} */ ms, /** @type {object} */ more = {}) => {
    if (typeof ms !== "number" || !Number.isFinite(ms) || ms < 0) {
      throw new TypeError(`$.flow.${kind} takes a number of milliseconds, and ${inspect(ms)} is not one`);
    }
    voice.pause(kind, written({ ms: Math.round(ms), ...more }, `$.flow.${kind}`, voice));
    return { ...urls };
  };
  return {
    // parity[bare-exit]: as on the platform, only `return $.flow.exit()` ends the step too
    exit: (/** @type {any} */ reason) => voice.exit(reason === undefined || reason === null ? null : String(reason)),
    delay: (/** @type {any} */ ms) => pause("delay", ms),
    suspend: (/** @type {any} */ ms = DAY_MS) => pause("suspend", ms),
    rerun: (/** @type {any} */ ms = DAY_MS, /** @type {any} */ context = null, /** @type {any} */ most = 10) =>
      pause("rerun", ms, { context: context ?? null, max: Number.isInteger(most) ? most : 10 }),
    trigger: (/** @type {any} */ workflow, /** @type {any} */ payload, /** @type {any} */ options) =>
      voice.ask("flow.trigger", written({ workflow, payload, options }, "$.flow.trigger", voice)),
    refreshTimeout: () => {
      throw new NotRunHereError("$.flow.refreshTimeout");
    },
  };
}

/**
 * `$.send`: each is queued here and delivered when the run is over; code never sees what becomes of it.
 *
 * @param {Voice} voice
 */
function sends(voice) {
  const effect = (/** @type {string} */ kind, /** @type {object} */ payload) =>
    voice.effect(kind, written(payload, `$.send.${kind}`, voice));
  return {
    http: (/** @type {any} */ request) => effect("http", { ...request }),
    email: (/** @type {any} */ message) => effect("email", { ...message }),
    s3: (/** @type {any} */ object) => effect("s3", { ...object }),
    emit: (/** @type {any} */ event, /** @type {any} */ channel = "") => effect("emit", { event: event ?? null, channel }),
    sse: (/** @type {any} */ channel, /** @type {any} */ payload) =>
      effect("sse", typeof channel === "object" ? { ...channel } : { channel, payload: payload ?? null }),
  };
}

/**
 * @param {any} value
 * @param {string} where
 * @param {Voice} voice
 * @returns {string}
 */
function written(value, where, voice) {
  return encode(value, where, voice.warn) ?? "null";
}

/** @param {any} content */
function bodyOf(content) {
  return content instanceof Uint8Array ? { $base64: Buffer.from(content).toString("base64") } : (content ?? null);
}

/** @param {AsyncIterable<any>} stream */
async function collected(stream) {
  const parts = [];
  for await (const part of stream) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}
