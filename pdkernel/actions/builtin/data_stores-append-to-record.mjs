// @ts-check
import { dataStore, key } from "./shared_props.mjs";
import { parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-append-to-record",
  name: "Append to a record",
  description: "Adds a value to the end of the list under a key. A missing list is created.",
  version: "0.0.2",
  type: "action",
  props: {
    dataStore,
    key,
    value: { type: "any", label: "Value", description: "Any value. JSON text is stored as the value that it encodes." },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const known = (await this.dataStore.get(this.key)) ?? [];
    if (!Array.isArray(known)) throw new Error(`The record ${this.key} is not a list, so no value can be appended.`);
    const value = [...known, parseJsonText(this.value)];
    await this.dataStore.set(this.key, value);
    $.export("$summary", `The record ${this.key} now has ${value.length} values.`);
    return { key: this.key, value };
  },
};
