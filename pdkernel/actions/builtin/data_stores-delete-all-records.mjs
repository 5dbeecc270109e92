// @ts-check
export default {
  key: "data_stores-delete-all-records",
  name: "Delete all records",
  description: "Empties the store.",
  version: "0.0.5",
  type: "action",
  props: {
    dataStore: { type: "data_store", label: "Data store", description: "The store." },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const { length } = await this.dataStore.keys();
    await this.dataStore.clear();
    $.export("$summary", `Deleted ${length} records.`);
  },
};
