// @ts-check
/**
 * The parts of an event source other than its props: `$emit`, `db`, and the HTTP interface.
 *
 * They follow the platform's component API page. pdkernel deduplicates events and stores the content of `db`.
 */

import { encodeJson } from "./export_encoding.mjs";
import { PropError } from "./props.mjs";

const { parse, stringify } = JSON;

/**
 * Create the value of a `$.service.db` prop. Reads and writes are synchronous; each write is also sent to pdkernel.
 *
 * @param {Record<string, any>} content
 * @param {(key: string, text: string | undefined) => void} send
 */
export function createServiceDb(content, send) {
  const texts = new Map(Object.entries(content).map(([key, value]) => [key, stringify(value)]));
  return {
    /** @param {string} key */
    get(key) {
      const text = texts.get(String(key));
      return text === undefined ? undefined : parse(text);
    },
    /**
     * @param {string} key
     * @param {any} value
     */
    set(key, value) {
      const text = encodeJson(value, `db.${key}`, () => {});
      if (text === undefined) texts.delete(String(key));
      else texts.set(String(key), text);
      send(String(key), text);
    },
  };
}

/**
 * Create the value of a `$.interface.http` prop.
 *
 * @param {string | null} endpoint the public URL of the source; if it is null, reading `endpoint` throws an error, because the
 *   source would register an invalid webhook
 * @param {(response: any) => Promise<void>} respond
 * @returns {{endpoint: string, respond: (response: any) => Promise<void>}}
 */
export function createHttpInterface(endpoint, respond) {
  if (endpoint !== null) return { endpoint, respond };
  const get = () => {
    throw new PropError(
      "The source reads the public URL of its HTTP interface (endpoint), which is not configured.",
      "Pass a URL that reaches this machine, for example of a tunnel: pdkernel source poll SOURCE --endpoint URL",
    );
  };
  return /** @type {any} */ (Object.defineProperty({ respond }, "endpoint", { get, enumerable: false }));
}

/**
 * Create `this.$emit`, which sends an event with its metadata to pdkernel.
 *
 * @param {import("./step_api.mjs").StepChannel} channel
 * @returns {(event: any, meta?: any) => void}
 */
export function createEmitter(channel) {
  return (event, meta) => {
    const { id, name, summary, ts } = meta ?? {};
    const fields = { id: scalar(id), name: word(name), summary: word(summary), ts: ts instanceof Date ? +ts : number(ts) };
    const text = encodeJson({ event: event ?? null, ...fields }, "$emit", channel.warn);
    channel.emit(/** @type {string} */ (text));
  };
}

/** @param {any} value */
const word = (value) => (value === undefined || value === null ? undefined : typeof value === "object" ? stringify(value) : String(value));
/** @param {any} value */
const number = (value) => (typeof value === "number" ? value : undefined);
/** @param {any} value */
const scalar = (value) => number(value) ?? word(value);

/**
 * Call `run` or a hook of a source.
 *
 * @param {any} component
 * @param {string} act `run`, or the name of a hook
 * @param {any} self `this` of the call
 * @param {any} event
 * @returns {Promise<boolean>} false if the component does not implement *act*
 */
export async function runOperation(component, act, self, event) {
  const work = act === "run" ? component.run : component.hooks?.[act];
  if (typeof work !== "function") return false;
  await work.call(self, event);
  return true;
}
