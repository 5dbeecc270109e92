// @ts-check
import { dataStore, key, createIfMissingProps } from "./shared_props.mjs";
import { isYes, toTtlOptions, parseJsonText } from "./shared_values.mjs";

export default {
  key: "data_stores-has-key-or-create",
  name: "Look for a key, or create it",
  description: "Returns whether a key is there; stores a value under it if it is not.",
  version: "0.1.2",
  type: "action",
  props: {
    dataStore,
    key,
    ...createIfMissingProps,
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const known = await this.dataStore.has(this.key);
    if (known || !isYes(this.addRecordIfNotFound)) {
      $.export("$summary", `The key ${this.key} is ${known ? "" : "not "}there.`);
      return known;
    }
    const value = parseJsonText(this.value);
    if (value === undefined) throw new Error("The key is not there, and there is no value to create it with.");
    await this.dataStore.set(this.key, value, toTtlOptions(this.ttl));
    $.export("$summary", `The key ${this.key} was not there and is created.`);
    return false;
  },
};
