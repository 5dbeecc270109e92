// @ts-check
export default {
  key: "data_stores-get-record",
  name: "Get a record",
  description: "Returns the value under a key, or nothing.",
  version: "0.0.10",
  type: "action",
  props: {
    dataStore: { type: "data_store", label: "Data store", description: "The store." },
    key: { type: "string", label: "Key", description: "The record's key." },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const value = await this.dataStore.get(this.key);
    $.export("$summary", value === undefined ? `There is no record ${this.key}.` : `Found the record ${this.key}.`);
    return value;
  },
};
