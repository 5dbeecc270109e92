// @ts-check
import { dataStore, ttl } from "./shared_props.mjs";
import { toTtlOptions, parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-add-update-multiple-records",
  name: "Add or update several records",
  description: "Stores each value of an object under its key.",
  version: "0.0.7",
  type: "action",
  props: {
    dataStore,
    data: {
      type: "any",
      label: "Data",
      description: "An object, or its JSON text. Each key becomes a record.",
    },
    ttl,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const data = parseJsonText(this.data);
    if (typeof data !== "object" || data === null || Array.isArray(data)) {
      throw new Error("The prop data is not an object of keys and values.");
    }
    const records = Object.fromEntries(Object.entries(data).map(([key, value]) => [key, parseJsonText(value)]));
    for (const [key, value] of Object.entries(records)) await this.dataStore.set(key, value, toTtlOptions(this.ttl));
    $.export("$summary", `Stored ${Object.keys(records).length} records.`);
    return records;
  },
};
