// @ts-check
import { createRequestProps, sendRequest } from "./shared_http.mjs";

export default {
  key: "http-custom-request",
  name: "Send any HTTP request",
  description: "Sends one HTTP request and returns the body of the response.",
  version: "1.1.1",
  type: "action",
  props: createRequestProps("GET"),
  /** @this {any} @param {any} services */
  async run({ $ }) {
    return sendRequest(this, $, "GET");
  },
};
