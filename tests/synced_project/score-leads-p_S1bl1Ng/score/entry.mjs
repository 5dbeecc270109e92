import { targets, count } from "./score_targets.mjs";
import limits from "./limits.json" with { type: "json" };
import { points } from "../lib/points.mjs";

export default defineComponent({
  async run({ steps }) {
    const { company } = steps.trigger.event.body ?? {};
    const { label } = await import("./labels.mjs");
    return { label: label(points(company, targets), limits), targets: count() };
  },
});
