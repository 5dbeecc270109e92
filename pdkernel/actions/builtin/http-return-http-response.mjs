// @ts-check
// parity[return-http-response-immediate]: the documentation says that this action responds at once. The published
// component responds at the end of the workflow, as this action does.
import { parseJsonText } from "./shared_values.mjs";

export default {
  key: "http-return-http-response",
  name: "Return HTTP response",
  description: "Sets the response of the workflow's HTTP trigger.",
  version: "0.0.3",
  type: "action",
  props: {
    resStatusCode: {
      type: "integer",
      label: "Status code",
      description: "The HTTP status.",
      default: 200,
      min: 100,
      max: 599,
      optional: true,
    },
    resHeaders: { type: "object", label: "Headers", description: "HTTP headers by name.", optional: true },
    resBody: {
      type: "any",
      label: "Body",
      description: "Text, an object, or an expression.",
      default: { success: true },
      optional: true,
    },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const response = {
      status: Number(this.resStatusCode ?? 200),
      headers: parseJsonText(this.resHeaders) ?? {},
      body: this.resBody ?? { success: true },
    };
    await $.respond(response);
    $.export("$summary", `Responds with status ${response.status}.`);
    return response;
  },
};
