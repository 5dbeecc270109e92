// @ts-check
/**
 * Converts text from forms to values. This module is not a component.
 *
 * parity[store-actions]: JSON text is stored as its value, as in a synced workflow. The return values of the data store
 * actions are inferred from their use in workflows.
 */

/**
 * Return the value that JSON text encodes; any other value is returned unchanged.
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
 * Whether a form's value is "Yes", as the platform's forms write it, or true.
 *
 * @param {any} value
 */
export function isYes(value) {
  return value === true || /^(yes|true)$/i.test(String(value ?? ""));
}

/**
 * Return the options of `set` for a time to live in seconds; undefined if it is empty or not positive.
 *
 * @param {any} ttl
 */
export function toTtlOptions(ttl) {
  const seconds = Number(ttl);
  return Number.isFinite(seconds) && seconds > 0 ? { ttl: seconds } : undefined;
}
