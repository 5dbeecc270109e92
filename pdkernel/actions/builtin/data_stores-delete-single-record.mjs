// @ts-check
import { dataStore, key } from "./shared_props.mjs";

export default {
  key: "data_stores-delete-single-record",
  name: "Delete a record",
  description: "Deletes the record under a key.",
  version: "0.0.10",
  type: "action",
  props: {
    dataStore,
    key,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const value = await this.dataStore.get(this.key);
    await this.dataStore.delete(this.key);
    $.export("$summary", value === undefined ? `The record ${this.key} did not exist.` : `Deleted the record ${this.key}.`);
    return value;
  },
};
