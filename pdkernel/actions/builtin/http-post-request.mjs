// @ts-check
import { createRequestProps, sendRequest } from "./shared_http.mjs";

export default {
  key: "http-post-request",
  name: "Send POST request",
  description: "Sends one POST request and returns the body of the response.",
  version: "1.1.3",
  type: "action",
  props: createRequestProps("POST"),
  /** @this {any} @param {any} services */
  async run({ $ }) {
    return sendRequest(this, $, "POST");
  },
};
