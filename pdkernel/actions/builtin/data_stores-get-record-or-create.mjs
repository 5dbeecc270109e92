// @ts-check
import { dataStore, key, createIfMissingProps } from "./shared_props.mjs";
import { isYes, toTtlOptions, parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-get-record-or-create",
  name: "Get a record, or create it",
  description: "Returns the value under a key. Can create a missing record first.",
  version: "0.0.10",
  type: "action",
  props: {
    dataStore,
    key,
    ...createIfMissingProps,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    if (await this.dataStore.has(this.key)) {
      $.export("$summary", `Found the record ${this.key}.`);
      return this.dataStore.get(this.key);
    }
    if (!isYes(this.addRecordIfNotFound)) {
      $.export("$summary", `The record ${this.key} does not exist.`);
      return undefined;
    }
    const value = parseJsonText(this.value);
    if (value === undefined) throw new Error(`The record ${this.key} does not exist and cannot be created: the prop value is missing.`);
    await this.dataStore.set(this.key, value, toTtlOptions(this.ttl));
    $.export("$summary", `Created the record ${this.key}.`);
    return value;
  },
};
