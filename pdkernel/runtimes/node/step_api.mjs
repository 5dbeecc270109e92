// @ts-check
/**
 * `steps` and `$`, the arguments of a Node.js step.
 *
 * `$` follows the platform's documentation and types. Its methods send messages to pdkernel through the step's channel.
 */

import { inspect } from "node:util";
import { UnsupportedFeatureError } from "./error_report.mjs";
import { encodeJson } from "./export_encoding.mjs";
import { createFileStore, parseWithFiles } from "./file_store.mjs";

const DAY_MS = 24 * 60 * 60 * 1000;

/**
 * @typedef {object} StepChannel the messages and calls from a step to pdkernel
 * @property {(name: string, text: string) => void} export
 * @property {(text: string) => void} respond
 * @property {(reason: string | null) => void} exit
 * @property {(text: string) => void} warn
 * @property {(kind: string, text: string) => void} effect
 * @property {(kind: string, text: string) => void} pause
 * @property {(call: string, text: string) => Promise<any>} ask
 * @property {(text: string) => void} emit
 */

/**
 * Create `steps`, which parses a value when it is first read. Every step has its own copy.
 *
 * @param {string[]} names
 * @param {Map<string, string>} texts JSON by name
 * @param {string | null} files the folder of the project's file store
 */
export function createSteps(names, texts, files) {
  const steps = /** @type {any} */ ({});
  for (const name of names) {
    const text = /** @type {string} */ (texts.get(name));
    Object.defineProperty(steps, name, {
      enumerable: true,
      configurable: true,
      get() {
        const value = parseWithFiles(text, files);
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
 * Create `$`.
 *
 * @param {any} context
 * @param {StepChannel} channel
 * @param {Record<string, string>} urls `resume_url` and `cancel_url` of this step
 * @param {string | null} files the folder of the project's file store
 * @returns {any} `$`
 */
export function createStepApi(context, channel, urls, files) {
  return {
    context,
    send: sends(channel),
    flow: flow(channel, urls),
    get files() {
      if (!files) throw new UnsupportedFeatureError("$.files without a project");
      return createFileStore(files);
    },
    export(/** @type {any} */ name, /** @type {any} */ value) {
      if (typeof name !== "string" || !name) {
        throw new TypeError(`$.export takes a name as its first argument, not ${inspect(name)}`);
      }
      const text = encodeJson(value, name, channel.warn);
      if (text !== undefined) channel.export(name, text);
    },
    respond: createResponder(channel),
  };
}

/**
 * Create `$.respond`, which the HTTP interface of a source also uses.
 *
 * @param {StepChannel} channel
 * @returns {(response: any) => Promise<void>}
 */
export function createResponder(channel) {
  return (response) => {
    const { status, headers, body, immediate } = response ?? {};
    if (!Number.isInteger(status) || status < 100 || status > 599) {
      throw new TypeError("$.respond needs a status from 100 to 599, for example { status: 200, body: ... }");
    }
    // a list is a header with several values, as in Node.js: Set-Cookie
    const texts = Object.entries(headers ?? {}).map(([key, value]) => [key, Array.isArray(value) ? value.map(String) : String(value)]);
    const send = (/** @type {any} */ content) => {
      const answer = { status, headers: Object.fromEntries(texts), body: bodyOf(content), ...(immediate ? { immediate: true } : {}) };
      channel.respond(/** @type {string} */ (encodeJson(answer, "respond", channel.warn)));
    };
    if (typeof body?.pipe === "function" && typeof body[Symbol.asyncIterator] === "function") {
      return collected(body).then(send);
    }
    send(body);
    return Promise.resolve();
  };
}

/**
 * Create `$.flow`. Only `trigger` waits. As the platform documents, the other methods take effect when the step has ended.
 *
 * @param {StepChannel} channel
 * @param {Record<string, string>} urls
 */
function flow(channel, urls) {
  const pause = (/** @type {string} */ kind, /** @type {any} */ ms, /** @type {object} */ more = {}) => {
    if (typeof ms !== "number" || !Number.isFinite(ms) || ms < 0) {
      throw new TypeError(`$.flow.${kind} takes a number of milliseconds from 0 upwards, not ${inspect(ms)}`);
    }
    channel.pause(kind, written({ ms: counted(ms), ...more }, `$.flow.${kind}`, channel));
    return { ...urls };
  };
  return {
    // parity[bare-exit]: as on the platform, the step continues unless it returns: `return $.flow.exit()`
    exit: (/** @type {any} */ reason) => channel.exit(reason === undefined || reason === null ? null : String(reason)),
    delay: (/** @type {any} */ ms) => pause("delay", ms),
    suspend: (/** @type {any} */ ms = DAY_MS) => pause("suspend", ms),
    rerun: (/** @type {any} */ ms = DAY_MS, /** @type {any} */ context = null, /** @type {any} */ most = 10) =>
      pause("rerun", ms, { context: context ?? null, max: Number.isInteger(most) ? counted(most) : 10 }),
    trigger: (/** @type {any} */ workflow, /** @type {any} */ payload, /** @type {any} */ options) =>
      channel.ask("flow.trigger", written({ workflow, payload, options }, "$.flow.trigger", channel)),
    refreshTimeout: () => {
      throw new UnsupportedFeatureError("$.flow.refreshTimeout");
    },
  };
}

/** @param {number} number */
function counted(number) {
  return Math.max(0, Math.min(Math.round(number), Number.MAX_SAFE_INTEGER));
}

/**
 * Create `$.send`. Messages are queued and delivered when the run has ended. The step does not get the result.
 *
 * @param {StepChannel} channel
 */
function sends(channel) {
  const effect = (/** @type {string} */ kind, /** @type {object} */ payload) =>
    channel.effect(kind, written(payload, `$.send.${kind}`, channel));
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
 * @param {StepChannel} channel
 * @returns {string}
 */
function written(value, where, channel) {
  return encodeJson(value, where, channel.warn) ?? "null";
}

/** @param {any} content */
function bodyOf(content) {
  return content instanceof Uint8Array ? { $base64: Buffer.from(content).toString("base64") } : (content ?? null);
}

/**
 * Read a stream to its end.
 *
 * @param {AsyncIterable<any>} stream
 * @returns {Promise<string | Buffer>} text if all parts are text
 */
async function collected(stream) {
  const parts = [];
  let isText = true;
  for await (const part of stream) {
    isText &&= typeof part === "string";
    parts.push(Buffer.from(part));
  }
  const whole = Buffer.concat(parts);
  return isText ? whole.toString("utf8") : whole;
}
