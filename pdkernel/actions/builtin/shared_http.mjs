// @ts-check
/** The props and the function of the actions that send an HTTP request. This module is not a component. */

/**
 * Return the props of an action whose request has *method* by default.
 *
 * @param {string} method
 */
export const createRequestProps = (method) => ({
  httpRequest: {
    type: "http_request",
    label: "HTTP request",
    description: "An object with method, url, params, headers, body and auth, as in the builder's form.",
    default: { method },
  },
  includeHeaders: {
    type: "boolean",
    label: "Include the headers of the response",
    description: "Exports the headers of the response as `headers`.",
    optional: true,
  },
});

/**
 * Send the request of an action, and return the body of the response.
 *
 * @param {any} action `this` of the action
 * @param {any} $
 * @param {string} method the method of a request that names none
 */
export async function sendRequest(action, $, method) {
  const request = action.httpRequest;
  request.method ??= method;
  const body = await request.execute();
  if (action.includeHeaders) $.export("headers", request.responseHeaders);
  $.export("$summary", `Received a response to ${request.method} ${request.url}.`);
  return body;
}
