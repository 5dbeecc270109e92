// @ts-check
import { dataStore } from "./shared_props.mjs";

export default {
  key: "data_stores-list-records",
  name: "List records",
  description: "Returns every record of the store, by key.",
  version: "0.0.5",
  type: "action",
  props: {
    dataStore,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const records = /** @type {Record<string, any>} */ ({});
    for (const key of await this.dataStore.keys()) records[key] = await this.dataStore.get(key);
    $.export("$summary", `The store has ${Object.keys(records).length} records.`);
    return records;
  },
};
