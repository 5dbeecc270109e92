// @ts-check
export default {
  key: "data_stores-list-keys",
  name: "List keys",
  description: "Returns every key of the store.",
  version: "0.0.5",
  type: "action",
  props: {
    dataStore: { type: "data_store", label: "Data store", description: "The store." },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const keys = await this.dataStore.keys();
    $.export("$summary", `The store has ${keys.length} keys.`);
    return keys;
  },
};
