// @ts-check
import { dataStore } from "./shared_props.mjs";

export default {
  key: "data_stores-delete-all-records",
  name: "Delete all records",
  description: "Deletes every record of the store.",
  version: "0.0.5",
  type: "action",
  props: {
    dataStore,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const { length } = await this.dataStore.keys();
    await this.dataStore.clear();
    $.export("$summary", `Deleted ${length} records.`);
  },
};
