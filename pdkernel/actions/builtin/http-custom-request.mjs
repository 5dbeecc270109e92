// @ts-check
export default {
  key: "http-custom-request",
  name: "Send any HTTP request",
  description: "Sends one HTTP request and returns the body of the response.",
  version: "1.1.1",
  type: "action",
  props: {
    httpRequest: {
      type: "http_request",
      label: "HTTP request",
      description: "An object with method, url, params, headers, body and auth, as in the builder's form.",
      default: { method: "GET" },
    },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const body = await this.httpRequest.execute();
    $.export("$summary", `Received a response to ${this.httpRequest.method ?? "GET"} ${this.httpRequest.url}.`);
    return body;
  },
};
