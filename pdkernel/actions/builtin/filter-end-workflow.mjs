// @ts-check
export default {
  key: "filter-end-workflow",
  name: "End workflow",
  description: "Ends the workflow at this step.",
  version: "0.0.1",
  type: "action",
  props: {
    reason: { type: "string", label: "Reason", description: "The reason in the record.", optional: true },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    return $.flow.exit(this.reason);
  },
};
