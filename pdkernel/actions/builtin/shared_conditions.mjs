// @ts-check
/**
 * The conditions of the filter actions, by their names in synced workflows. This module is not a component.
 *
 * parity[filter-values]: forms yield text, so text that encodes a number or boolean is compared as that value. The platform
 * does not document how values of different types compare.
 */

import { parseJsonText } from "./shared_values.mjs";

const isMissing = (/** @type {any} */ value) => value === null || value === undefined;
const text = (/** @type {any} */ value) =>
  isMissing(value) ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
const number = (/** @type {any} */ value) => (isMissing(value) || value === "" ? NaN : Number(value));
const isBoolean = (/** @type {any} */ value, /** @type {boolean} */ wanted) =>
  value === wanted || (typeof value === "string" && value.trim().toLowerCase() === String(wanted));

/** @param {any} a @param {any} b */
function contains(a, b) {
  return Array.isArray(a) ? a.some((item) => text(item) === text(b)) : text(a).includes(text(b));
}

/** @param {any} a @param {any} b */
function inArray(a, b) {
  const [list, item] = Array.isArray(parseJsonText(b)) ? [parseJsonText(b), a] : [parseJsonText(a), b];
  return Array.isArray(list) && list.some((each) => text(each) === text(item));
}

/** @param {any} a @param {any} b */
function hasKey(a, b) {
  const isObject = (/** @type {any} */ value) => typeof value === "object" && value !== null;
  const [object, key] = isObject(parseJsonText(a)) ? [parseJsonText(a), b] : [parseJsonText(b), a];
  return isObject(object) && Object.hasOwn(object, text(key));
}

/** @type {Record<string, {label: string, second: boolean, holds: (a: any, b: any) => boolean}>} */
const CONDITIONS = {
  CONTAINS: { label: "contains", second: true, holds: contains },
  NOT_CONTAINS: { label: "does not contain", second: true, holds: (a, b) => !contains(a, b) },
  TEXT_EQUALS: { label: "is the text", second: true, holds: (a, b) => text(a) === text(b) },
  TEXT_NOT_EQUALS: { label: "is not the text", second: true, holds: (a, b) => text(a) !== text(b) },
  STARTS_WITH: { label: "starts with", second: true, holds: (a, b) => text(a).startsWith(text(b)) },
  NOT_STARTS_WITH: { label: "does not start with", second: true, holds: (a, b) => !text(a).startsWith(text(b)) },
  ENDS_WITH: { label: "ends with", second: true, holds: (a, b) => text(a).endsWith(text(b)) },
  NOT_ENDS_WITH: { label: "does not end with", second: true, holds: (a, b) => !text(a).endsWith(text(b)) },
  GREATER_THAN: { label: "is greater than", second: true, holds: (a, b) => number(a) > number(b) },
  GREATER_THAN_EQUALS: { label: "is at least", second: true, holds: (a, b) => number(a) >= number(b) },
  LESS_THAN: { label: "is less than", second: true, holds: (a, b) => number(a) < number(b) },
  LESS_THAN_EQUALS: { label: "is at most", second: true, holds: (a, b) => number(a) <= number(b) },
  EQUALS: { label: "is the number", second: true, holds: (a, b) => number(a) === number(b) },
  TRUE: { label: "is true", second: false, holds: (a) => isBoolean(a, true) },
  FALSE: { label: "is false", second: false, holds: (a) => isBoolean(a, false) },
  IS_NULL: { label: "is null or missing", second: false, holds: isMissing },
  NOT_NULL: { label: "is neither null nor missing", second: false, holds: (a) => !isMissing(a) },
  IN_ARRAY: { label: "is in the list", second: true, holds: inArray },
  NOT_IN_ARRAY: { label: "is not in the list", second: true, holds: (a, b) => !inArray(a, b) },
  KEY_EXISTS: { label: "has the key", second: true, holds: hasKey },
  KEY_NOT_EXISTS: { label: "does not have the key", second: true, holds: (a, b) => !hasKey(a, b) },
};

/** The props of both filter actions. */
export const conditionProps = {
  initialValue: {
    type: "any",
    label: "Initial value",
    description: "The value to check, usually an expression.",
    optional: true,
  },
  condition: {
    type: "string",
    label: "Condition",
    description: "The condition that the value must meet.",
    options: Object.entries(CONDITIONS).map(([value, { label }]) => ({ value, label })),
  },
  secondValue: {
    type: "any",
    label: "Second value",
    description: "The value to compare with, for conditions that compare two values.",
    optional: true,
  },
  messageOnContinue: {
    type: "string",
    label: "Message on continue",
    description: "The return value of the step if the workflow continues.",
    optional: true,
  },
  messageOnEnd: {
    type: "string",
    label: "Message on end",
    description: "The reason in the record if the workflow ends at this step.",
    optional: true,
  },
};

/**
 * Whether the props of a filter action meet its condition.
 *
 * @param {any} filter `this` of the action
 * @returns {boolean}
 */
export function isConditionMet(filter) {
  const condition = CONDITIONS[String(filter.condition).toUpperCase()]; // TRUE without quotes is a boolean in YAML
  if (!condition) {
    throw new Error(`${filter.condition} is not a condition. Conditions: ${Object.keys(CONDITIONS).join(", ")}`);
  }
  if (condition.second && filter.secondValue === undefined) {
    throw new Error(`The condition ${filter.condition} needs the prop secondValue, which has no value.`);
  }
  return condition.holds(filter.initialValue, filter.secondValue);
}
