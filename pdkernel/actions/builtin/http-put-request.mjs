// @ts-check
import { createRequestProps, sendRequest } from "./shared_http.mjs";

export default {
  key: "http-put-request",
  name: "Send PUT request",
  description: "Sends one PUT request and returns the body of the response.",
  version: "1.1.3",
  type: "action",
  props: createRequestProps("PUT"),
  /** @this {any} @param {any} services */
  async run({ $ }) {
    return sendRequest(this, $, "PUT");
  },
};
