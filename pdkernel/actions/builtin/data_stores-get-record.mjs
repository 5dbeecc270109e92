// @ts-check
import { dataStore, key } from "./shared_props.mjs";

export default {
  key: "data_stores-get-record",
  name: "Get a record",
  description: "Returns the value under a key, or undefined if the record does not exist.",
  version: "0.0.10",
  type: "action",
  props: {
    dataStore,
    key,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const value = await this.dataStore.get(this.key);
    $.export("$summary", value === undefined ? `The record ${this.key} does not exist.` : `Found the record ${this.key}.`);
    return value;
  },
};
