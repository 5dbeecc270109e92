// @ts-check
/**
 * Encodes the exports of a Node.js step as JSON, and names the path of values that JSON does not support.
 *
 * As on the platform, the rules are those of JSON.stringify: undefined and functions are dropped, NaN becomes null. A dropped or
 * changed value causes a warning, except for functions of class instances, such as responses of client libraries. BigInt and
 * cycles are errors, but a class instance inside the value that contains itself, such as the request of a response, is dropped.
 */

const { stringify } = JSON;
const MAX_NODES = 200_000;
/** Maximum number of levels, as on the platform ("JSON Nested Property Limit Exceeded"). */
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
 * Encode a value as JSON. Throws `ExportNotJSONError`, whose message names the path of the invalid part.
 *
 * @param {unknown} value
 * @param {string} name the beginning of paths in messages
 * @param {(text: string) => void} warn receives a warning for each value that is changed or dropped
 * @param {string} [verb] the verb in warnings
 * @returns {string | undefined} JSON on one line; undefined if there is no value to export
 */
export function encodeJson(value, name, warn, verb = "exported") {
  /** @type {string | undefined} */
  let text;
  try {
    text = stringify(value);
  } catch (error) {
    /** @type {Map<object, string>} */
    const cyclic = new Map();
    const problem = explain(value, name, [], { left: MAX_NODES, verb, cyclic }, () => {});
    if (problem || cyclic.size === 0) throw new ExportNotJSONError(problem ?? `${name} cannot be written as JSON: ${error?.message ?? error}`);
    for (const [instance, path] of cyclic) warn(`${path} is ${withArticle(instance.constructor?.name ?? "object")} that contains itself, so it is not ${verb}.`);
    return stringify(value, (_key, each) => (cyclic.has(each) ? undefined : each));
  }
  if (value !== null && (typeof value === "object" || typeof value === "function" || typeof value === "number")) {
    const problem = explain(value, name, [], { left: MAX_NODES, verb }, warn);
    if (problem) throw new ExportNotJSONError(problem);
  }
  return text;
}

/**
 * Find the part of a value that is not JSON, and warn about parts that are dropped or changed.
 *
 * @param {any} value
 * @param {string} path
 * @param {object[]} above the objects that contain the value, outermost first
 * @param {{left: number, verb: string, cyclic?: Map<object, string>}} budget `cyclic` receives class instances that contain
 *   themselves, with their paths; without it there are none
 * @param {(text: string) => void} warn
 * @returns {string | undefined} why the value cannot be encoded
 */
function explain(value, path, above, budget, warn) {
  switch (typeof value) {
    case "bigint":
      return `${path} is a BigInt, which JSON does not support. Use String(...) or Number(...).`;
    case "function":
      warn(`${path} is a function, so it is not ${budget.verb}.`);
      return undefined;
    case "symbol":
      warn(`${path} is a symbol, so it is not ${budget.verb}.`);
      return undefined;
    case "number":
      if (!Number.isFinite(value)) warn(`${path} is ${value}, which JSON does not support, so it is ${budget.verb} as null.`);
      return undefined;
    case "object":
      break;
    default:
      return undefined;
  }
  if (value === null || --budget.left < 0) return undefined;
  if (above.includes(value)) return `${path} contains itself, so it cannot be written as JSON.`;
  if (typeof value.toJSON === "function") return undefined;
  if (above.length === MAX_DEPTH) return `JSON Nested Property Limit Exceeded: ${path.slice(0, 80)}... is nested more than ${MAX_DEPTH} deep.`;
  const isPlain = isPlainObject(value);
  const lost = [Map, Set, Error, WeakMap, WeakSet, Promise, RegExp].find((kind) => value instanceof kind);
  // an instance without own properties keeps its content elsewhere, such as the response of fetch
  const isEmpty = !isPlain && Object.keys(value).length === 0 && above.every(isPlainObject);
  if (lost || isEmpty) warn(`${path} is ${withArticle((lost ?? value.constructor)?.name ?? "object")}, so it is ${budget.verb} without its content.`);
  if (budget.cyclic && !isPlain && above.length > 0 && containsItself(value)) {
    // parity[export-cycle]: not the whole graph, because sockets and agents hold the environment of the process
    if (!budget.cyclic.has(value)) budget.cyclic.set(value, path);
    return undefined;
  }
  above.push(value);
  try {
    if (Array.isArray(value)) {
      for (let i = 0; i < value.length; i++) {
        const problem = explain(value[i], `${path}[${i}]`, above, budget, warn);
        if (problem) return problem;
      }
    } else {
      for (const key of Object.keys(value)) {
        if (!isPlain && typeof value[key] === "function") continue;
        const problem = explain(value[key], path + segment(key), above, budget, warn);
        if (problem) return problem;
      }
    }
  } finally {
    above.pop();
  }
  return undefined;
}

/**
 * Whether a value is a list or an object literal, and not an instance of another class.
 *
 * @param {object} value
 */
function isPlainObject(value) {
  return Array.isArray(value) || [Object.prototype, null].includes(Object.getPrototypeOf(value));
}

/**
 * Whether a path of properties leads from a value back to the value.
 *
 * @param {object} value
 */
function containsItself(value) {
  const seen = new Set();
  const waiting = [value];
  while (waiting.length > 0 && seen.size < MAX_NODES) {
    for (const each of Object.values(/** @type {object} */ (waiting.pop()))) {
      if (each === value) return true;
      if (each === null || typeof each !== "object" || typeof each.toJSON === "function" || seen.has(each)) continue;
      seen.add(each);
      waiting.push(each);
    }
  }
  return false;
}

/** @param {string} name */
function withArticle(name) {
  return `${/^[AEIO]/.test(name) ? "an" : "a"} ${name}`;
}

/** @param {string} key */
function segment(key) {
  return /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(key) ? `.${key}` : `[${stringify(key)}]`;
}
