// @ts-check
/**
 * The value of a prop of type `http_request`: its fields, and `execute()`.
 *
 * The fields have the format of the builder's HTTP editor (lists of `{name, value, disabled}`, `auth`, `body`). Errors look like
 * those of the platform's HTTP client.
 */

const send = fetch; // a step may replace the global one
const BODILESS = new Set(["GET", "HEAD"]);

/**
 * Return a copy of *fields* with a method `execute`, which sends the request and sets `responseHeaders`.
 *
 * @param {any} fields
 * @returns {any}
 */
export function createHttpRequest(fields) {
  const request = { ...fields };
  Object.defineProperties(request, {
    execute: { value: () => execute(request), enumerable: false },
    responseHeaders: { value: undefined, enumerable: false, writable: true },
  });
  return request;
}

/**
 * Send the request. Throws an error for a status of 300 or above.
 *
 * @param {any} request
 * @returns {Promise<any>} the body: parsed if it is JSON, else text
 */
async function execute(request) {
  const { method = "GET", url, headers, params, auth, body } = request;
  if (typeof url !== "string" || !url.trim()) {
    throw named("ConfigurationError", "The HTTP request has no URL. Set the field url.", undefined);
  }
  const verb = String(method).toUpperCase();
  const target = new URL(url.trim());
  for (const [name, value] of entries(params)) target.searchParams.append(name, text(value));
  const sent = new Headers();
  for (const [name, value] of entries(headers)) sent.append(name, text(value));
  authorize(sent, auth);
  const content = BODILESS.has(verb) ? undefined : contentOf(body, sent);
  const response = await send(target, { method: verb, headers: sent, body: content, redirect: "follow" });
  request.responseHeaders = Object.fromEntries(response.headers);
  const data = await dataOf(response);
  if (response.ok) return data;
  const error = named(
    `AxiosError - Request failed with status code ${response.status}`,
    JSON.stringify(data) ?? "",
    { status: response.status, statusText: response.statusText, headers: request.responseHeaders, data },
  );
  throw error;
}

/**
 * Set the `authorization` header for *auth*.
 *
 * @param {Headers} headers
 * @param {any} auth
 */
function authorize(headers, auth) {
  if (auth?.type === "bearer" && auth.token) headers.set("authorization", `Bearer ${auth.token}`);
  if (auth?.type !== "basic") return;
  const pair = `${auth.username ?? ""}:${auth.password ?? ""}`;
  headers.set("authorization", `Basic ${Buffer.from(pair).toString("base64")}`);
}

/**
 * Convert the editor's body to the body for `fetch`.
 *
 * @param {any} body
 * @param {Headers} headers gets a content type, unless it has one
 * @returns {any}
 */
function contentOf(body, headers) {
  if (body === undefined || body === null || body === "") return undefined;
  if (typeof body === "string") return typed(headers, undefined, body);
  const kind = body.mode ?? body.type;
  const type = body.contentType;
  if (kind === "raw" || (kind === undefined && body.raw !== undefined)) {
    if (body.raw === undefined || body.raw === null || body.raw === "") return undefined;
    return typed(headers, type ?? "application/json", text(body.raw));
  }
  if (kind !== "fields" && body.fields === undefined) {
    return Object.keys(body).length ? typed(headers, "application/json", JSON.stringify(body)) : undefined;
  }
  const fields = entries(body.fields);
  if (!fields.length) return undefined;
  if (/multipart/i.test(type ?? "")) {
    const form = new FormData();
    for (const [name, value] of fields) form.append(name, text(value));
    headers.delete("content-type"); // fetch sets it, with the boundary
    return form;
  }
  if (/urlencoded/i.test(type ?? "")) {
    return typed(headers, type, new URLSearchParams(fields.map(([name, value]) => [name, text(value)])).toString());
  }
  return typed(headers, type ?? "application/json", JSON.stringify(Object.fromEntries(fields)));
}

/**
 * Return *content*, and set its content type unless the headers have one.
 *
 * @param {Headers} headers
 * @param {string | undefined} type
 * @param {string} content
 */
function typed(headers, type, content) {
  if (type && !headers.has("content-type")) headers.set("content-type", type);
  return content;
}

/**
 * Return the enabled entries of a list of the editor, or the properties of an object, as pairs.
 *
 * @param {any} list `[{name, value, disabled?}]`, or an object
 * @returns {[string, any][]}
 */
function entries(list) {
  if (!list) return [];
  if (!Array.isArray(list)) return Object.entries(list).filter(([, value]) => value !== undefined);
  return list
    .filter((item) => item && !item.disabled && item.name !== undefined && item.name !== "")
    .map((item) => [String(item.name), item.value ?? ""]);
}

/** @param {any} value */
function text(value) {
  return typeof value === "string" ? value : typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** @param {Response} response */
async function dataOf(response) {
  const content = await response.text();
  try {
    return JSON.parse(content);
  } catch {
    return content;
  }
}

/**
 * @param {string} name
 * @param {string} message
 * @param {any} response
 */
function named(name, message, response) {
  const error = /** @type {any} */ (new Error(message));
  error.name = name;
  if (response) error.response = response;
  return error;
}
