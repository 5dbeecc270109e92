// @ts-check
/**
 * Turns what a Node.js step exports into JSON, and names the path of what JSON cannot hold.
 *
 * Knows JSON.stringify's rules, which are the platform's: undefined and functions are dropped, NaN is null.
 * The caller is warned of what was dropped, but for the functions of a class's instance, such as a client library's
 * answer: only its data was meant. BigInt and cycles are errors.
 */

const { stringify } = JSON;
const MAX_NODES = 200_000;
/** Levels; the platform's own limit ("JSON Nested Property Limit Exceeded"). */
const MAX_DEPTH = 256;

/** An export that cannot be written as JSON. */
export class ExportNotJSONError extends TypeError {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "ExportNotJSONError";
    this.pdkernelCode = "export_not_json";
  }
}

/**
 * @param {unknown} value
 * @param {string} name where the path in a message begins
 * @param {(text: string) => void} warn is told what is not exported as it is
 * @param {string} [verb] what is done with it, in a warning
 * @returns {string | undefined} JSON on one line; undefined if there is nothing to export
 */
export function encodeJson(value, name, warn, verb = "exported") {
  /** @type {string | undefined} */
  let text;
  try {
    text = stringify(value);
  } catch (error) {
    const said = explain(value, name, [], { left: MAX_NODES, verb }, () => {});
    throw new ExportNotJSONError(said ?? `${name} cannot be written as JSON: ${error?.message ?? error}`);
  }
  if (value !== null && (typeof value === "object" || typeof value === "function" || typeof value === "number")) {
    const said = explain(value, name, [], { left: MAX_NODES, verb }, warn);
    if (said) throw new ExportNotJSONError(said);
  }
  return text;
}

/**
 * @param {any} value
 * @param {string} path
 * @param {object[]} above the objects that hold it
 * @param {{left: number, verb: string}} budget
 * @param {(text: string) => void} warn
 * @returns {string | undefined} why it cannot be written
 */
function explain(value, path, above, budget, warn) {
  switch (typeof value) {
    case "bigint":
      return `${path} is a BigInt, which JSON does not have. Use String(...) or Number(...).`;
    case "function":
      warn(`${path} is a function, and is not ${budget.verb}.`);
      return undefined;
    case "symbol":
      warn(`${path} is a symbol, and is not ${budget.verb}.`);
      return undefined;
    case "number":
      if (!Number.isFinite(value)) warn(`${path} is ${value}, which JSON does not have: it is ${budget.verb} as null.`);
      return undefined;
    case "object":
      break;
    default:
      return undefined;
  }
  if (value === null || --budget.left < 0) return undefined;
  if (above.includes(value)) return `${path} contains itself, and JSON has no end for that.`;
  if (above.length > MAX_DEPTH) return `JSON Nested Property Limit Exceeded: ${path.slice(0, 80)}... is nested more than ${MAX_DEPTH} deep.`;
  if (typeof value.toJSON === "function") return undefined;
  const lost = [Map, Set, Error, WeakMap, WeakSet, Promise, RegExp].find((kind) => value instanceof kind);
  if (lost) {
    const article = /^[AEIOU]/.test(lost.name) ? "an" : "a";
    warn(`${path} is ${article} ${lost.name}, and is ${budget.verb} without what it holds.`);
  }
  above.push(value);
  try {
    if (Array.isArray(value)) {
      for (let i = 0; i < value.length; i++) {
        const said = explain(value[i], `${path}[${i}]`, above, budget, warn);
        if (said) return said;
      }
    } else {
      const isPlain = [Object.prototype, null].includes(Object.getPrototypeOf(value));
      for (const key of Object.keys(value)) {
        if (!isPlain && typeof value[key] === "function") continue;
        const said = explain(value[key], path + segment(key), above, budget, warn);
        if (said) return said;
      }
    }
  } finally {
    above.pop();
  }
  return undefined;
}

/** @param {string} key */
function segment(key) {
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${stringify(key)}]`;
}
