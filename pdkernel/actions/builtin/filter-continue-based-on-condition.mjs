// @ts-check
import { conditionProps, isConditionMet } from "./shared_conditions.mjs";

export default {
  key: "filter-continue-based-on-condition",
  name: "Continue execution if a condition is met",
  description: "Runs the next step if the condition is met. Otherwise ends the workflow.",
  version: "0.0.2",
  type: "action",
  props: conditionProps,
  /** @this {any} @param {any} services */
  async run({ $ }) {
    if (!isConditionMet(this)) return $.flow.exit(this.messageOnEnd);
    return this.messageOnContinue;
  },
};
