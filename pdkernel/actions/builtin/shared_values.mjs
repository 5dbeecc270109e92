// @ts-check
/**
 * What values mean where a form could only hold text. Nothing here is a component.
 *
 * parity[store-actions]: text that is JSON is stored as its value, as seen in a synced workflow; what the actions on
 * data stores return is inferred from how workflows use it.
 */

/**
 * Text that is JSON as its value, everything else as it is.
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
 * Seconds to live as `set` takes them; nothing for none.
 *
 * @param {any} ttl
 */
export function toTtlOptions(ttl) {
  const seconds = Number(ttl);
  return Number.isFinite(seconds) && seconds > 0 ? { ttl: seconds } : undefined;
}
