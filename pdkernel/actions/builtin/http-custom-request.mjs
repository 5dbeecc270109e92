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
      description: "method, url, params, headers, body and auth, as the builder's form has them.",
      default: { method: "GET" },
    },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const body = await this.httpRequest.execute();
    $.export("$summary", `${this.httpRequest.method ?? "GET"} ${this.httpRequest.url} was answered.`);
    return body;
  },
};
