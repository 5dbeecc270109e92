// @ts-check
// parity[delay-units]: the platform's spelling of the units is not known, so singular, plural and any case are accepted
const UNITS = /** @type {Record<string, number>} */ ({
  millisecond: 1,
  second: 1000,
  minute: 60_000,
  hour: 3_600_000,
  day: 86_400_000,
});
const LONGEST_MS = 365 * UNITS.day;

export default {
  key: "delay-workflow-delay",
  name: "Delay workflow",
  description: "Pauses the workflow after this step, for one millisecond to one year.",
  version: "0.0.3",
  type: "action",
  props: {
    delayDurationValue: { type: "integer", label: "Duration", description: "The number of units.", min: 1 },
    delayDurationUnit: {
      type: "string",
      label: "Unit",
      description: "The unit of the duration.",
      options: ["Milliseconds", "Seconds", "Minutes", "Hours", "Days"],
    },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const unit = UNITS[String(this.delayDurationUnit).trim().toLowerCase().replace(/s$/, "")];
    const value = Number(this.delayDurationValue);
    if (!unit) throw new Error(`${this.delayDurationUnit} is not a unit. Units: ${Object.keys(UNITS).join("s, ")}s`);
    if (!(value > 0) || value * unit > LONGEST_MS) {
      throw new Error("The delay must be between one millisecond and one year.");
    }
    $.export("$summary", `Pauses for ${value} ${this.delayDurationUnit}.`);
    return $.flow.delay(Math.max(1, Math.round(value * unit)));
  },
};
