// @ts-check
/**
 * Conversion of form text to values. This module is not a component.
 *
 * parity[store-actions]: JSON text is stored as its value, as in a synced workflow; the return values of the actions on
 * data stores are inferred from their use in workflows.
 */

/**
 * The value of JSON text; any other value unchanged.
 *
 * @param {any} value
 */
export function parseJsonText(value) {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/**
 * "Yes" and "No", as forms of the platform write them, or a boolean.
 *
 * @param {any} value
 */
export function isYes(value) {
  return value === true || /^(yes|true)$/i.test(String(value ?? ""));
}

/**
 * The options of `set` for a time to live in seconds; undefined without one.
 *
 * @param {any} ttl
 */
export function toTtlOptions(ttl) {
  const seconds = Number(ttl);
  return Number.isFinite(seconds) && seconds > 0 ? { ttl: seconds } : undefined;
}
