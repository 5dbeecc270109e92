// @ts-check
export default {
  key: "data_stores-delete-single-record",
  name: "Delete a record",
  description: "Deletes the record under a key.",
  version: "0.0.10",
  type: "action",
  props: {
    dataStore: { type: "data_store", label: "Data store", description: "The store." },
    key: { type: "string", label: "Key", description: "The record's key." },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const value = await this.dataStore.get(this.key);
    await this.dataStore.delete(this.key);
    $.export("$summary", value === undefined ? `There was no record ${this.key}.` : `Deleted ${this.key}.`);
    return value;
  },
};
