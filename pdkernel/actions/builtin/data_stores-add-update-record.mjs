// @ts-check
import { dataStore, key, ttl } from "./shared_props.mjs";
import { toTtlOptions, parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-add-update-record",
  name: "Add or update a record",
  description: "Stores a value under a key.",
  version: "0.0.9",
  type: "action",
  props: {
    dataStore,
    key,
    value: { type: "any", label: "Value", description: "Any value. JSON text is stored as the value that it encodes." },
    ttl,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const value = parseJsonText(this.value);
    const known = await this.dataStore.has(this.key);
    await this.dataStore.set(this.key, value, toTtlOptions(this.ttl));
    $.export("$summary", `${known ? "Updated" : "Added"} the record ${this.key}.`);
    return { key: this.key, value };
  },
};
