// @ts-check
/**
 * What an event source has besides its props: `$emit`, its `db`, its HTTP interface.
 *
 * Knows the platform's sources (its component API page). Which emitted events are new, and where `db` is kept, is for the
 * host to know.
 */

import { encodeJson } from "./export_encoding.mjs";
import { PropError } from "./props.mjs";

const { parse, stringify } = JSON;

/**
 * The value of a `$.service.db` prop: read and written at once, told to the host as it is written.
 *
 * @param {Record<string, any>} kept
 * @param {(key: string, text: string | undefined) => void} tell
 */
export function createServiceDb(kept, tell) {
  const texts = new Map(Object.entries(kept).map(([key, value]) => [key, stringify(value)]));
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
      tell(String(key), text);
    },
  };
}

/**
 * The value of a `$.interface.http` prop.
 *
 * @param {string | null} endpoint where it is reached from outside; who asks for one that nobody has told gets an error,
 *   because a service would be told to call nowhere
 * @param {(response: any) => Promise<void>} respond
 * @returns {{endpoint: string, respond: (response: any) => Promise<void>}}
 */
export function createHttpInterface(endpoint, respond) {
  if (endpoint !== null) return { endpoint, respond };
  const get = () => {
    throw new PropError(
      "The source asks for the address of its HTTP interface (endpoint), and it has none here.",
      "Give an address that leads to you, such as a tunnel's: pdkernel source poll SOURCE --endpoint URL",
    );
  };
  return /** @type {any} */ (Object.defineProperty({ respond }, "endpoint", { get, enumerable: false }));
}

/**
 * @param {import("./step_api.mjs").StepChannel} voice
 * @returns {(event: any, meta?: any) => void} `this.$emit`
 */
export function createEmitter(voice) {
  return (event, meta) => {
    const { id, name, summary, ts } = meta ?? {};
    const told = { id: scalar(id), name: word(name), summary: word(summary), ts: ts instanceof Date ? +ts : number(ts) };
    const text = encodeJson({ event: event ?? null, ...told }, "$emit", voice.warn);
    voice.emit(/** @type {string} */ (text));
  };
}

/** @param {any} value */
const word = (value) => (value === undefined || value === null ? undefined : typeof value === "object" ? stringify(value) : String(value));
/** @param {any} value */
const number = (value) => (typeof value === "number" ? value : undefined);
/** @param {any} value */
const scalar = (value) => number(value) ?? word(value);

/**
 * @param {any} component
 * @param {string} act `run`, or the name of a hook
 * @param {any} self
 * @param {any} event
 * @returns {Promise<boolean>} whether there is such a thing to do
 */
export async function runOperation(component, act, self, event) {
  const work = act === "run" ? component.run : component.hooks?.[act];
  if (typeof work !== "function") return false;
  await work.call(self, event);
  return true;
}
