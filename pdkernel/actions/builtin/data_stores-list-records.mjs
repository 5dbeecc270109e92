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
    const entries = [];
    for await (const entry of this.dataStore) entries.push(entry);
    const records = Object.fromEntries(entries); // unlike an assignment, it makes a property of the key `__proto__`, too
    $.export("$summary", `The store has ${Object.keys(records).length} records.`);
    return records;
  },
};
