// @ts-check
import { conditionProps, isConditionMet } from "./shared_conditions.mjs";

export default {
  key: "filter-end-based-on-condition",
  name: "End execution if a condition is met",
  description: "Ends the workflow if the condition is met. Otherwise runs the next step.",
  version: "0.0.2",
  type: "action",
  props: conditionProps,
  /** @this {any} @param {any} services */
  async run({ $ }) {
    if (isConditionMet(this)) return $.flow.exit(this.messageOnEnd);
    return this.messageOnContinue;
  },
};
