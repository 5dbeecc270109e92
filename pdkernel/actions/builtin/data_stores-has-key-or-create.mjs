// @ts-check
import { isYes, lifetime, parsed } from "./shared_values.mjs";

export default {
  key: "data_stores-has-key-or-create",
  name: "Look for a key, or create it",
  description: "Returns whether a key is there; stores a value under it if it is not.",
  version: "0.1.2",
  type: "action",
  props: {
    dataStore: { type: "data_store", label: "Data store", description: "The store." },
    key: { type: "string", label: "Key", description: "The record's key." },
    addRecordIfNotFound: {
      type: "string",
      label: "Create the record if it is not there",
      description: "Yes or No.",
      options: ["No", "Yes"],
      optional: true,
    },
    value: {
      type: "any",
      label: "Value",
      description: "What to store where the key is not there; text that is JSON is stored as what it says.",
      optional: true,
    },
    ttl: {
      type: "integer",
      label: "Time to live",
      description: "Seconds until the record expires; none for never.",
      optional: true,
    },
  },
  /** @this {any} @param {any} given */
  async run({ $ }) {
    const known = await this.dataStore.has(this.key);
    if (known || !isYes(this.addRecordIfNotFound)) {
      $.export("$summary", `The key ${this.key} is ${known ? "" : "not "}there.`);
      return known;
    }
    const value = parsed(this.value);
    if (value === undefined) throw new Error("The key is not there, and there is no value to create it with.");
    await this.dataStore.set(this.key, value, lifetime(this.ttl));
    $.export("$summary", `The key ${this.key} was not there and is created.`);
    return false;
  },
};
