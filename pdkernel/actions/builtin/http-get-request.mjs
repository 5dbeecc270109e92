// @ts-check
import { createRequestProps, sendRequest } from "./shared_http.mjs";

export default {
  key: "http-get-request",
  name: "Send GET request",
  description: "Sends one GET request and returns the body of the response.",
  version: "1.1.2",
  type: "action",
  props: createRequestProps("GET"),
  /** @this {any} @param {any} services */
  async run({ $ }) {
    return sendRequest(this, $, "GET");
  },
};
