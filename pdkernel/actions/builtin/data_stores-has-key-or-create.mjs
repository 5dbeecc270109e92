// @ts-check
import { dataStore, key, createIfMissingProps } from "./shared_props.mjs";
import { isYes, toTtlOptions, parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-has-key-or-create",
  name: "Check whether a key exists, or create it",
  description: "Returns whether a key exists. Can store a value under a missing key.",
  version: "0.1.2",
  type: "action",
  props: {
    dataStore,
    key,
    ...createIfMissingProps,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const known = await this.dataStore.has(this.key);
    if (known || !isYes(this.addRecordIfNotFound)) {
      $.export("$summary", `The key ${this.key} ${known ? "exists" : "does not exist"}.`);
      return known;
    }
    const value = parseJsonText(this.value);
    if (value === undefined) throw new Error(`The key ${this.key} does not exist and cannot be created: the prop value is missing.`);
    await this.dataStore.set(this.key, value, toTtlOptions(this.ttl));
    $.export("$summary", `Created the missing key ${this.key}.`);
    return false;
  },
};
