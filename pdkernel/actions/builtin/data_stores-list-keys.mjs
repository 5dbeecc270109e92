// @ts-check
import { dataStore } from "./shared_props.mjs";

export default {
  key: "data_stores-list-keys",
  name: "List keys",
  description: "Returns every key of the store.",
  version: "0.0.5",
  type: "action",
  props: {
    dataStore,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const keys = await this.dataStore.keys();
    $.export("$summary", `The store has ${keys.length} keys.`);
    return keys;
  },
};
