// @ts-check
import { dataStore, key, ttl } from "./shared_props.mjs";

export default {
  key: "data_stores-update-ttl",
  name: "Update a record's time to live",
  description: "Sets or removes the time to live of a record.",
  version: "0.0.1",
  type: "action",
  props: {
    dataStore,
    key,
    ttl,
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    if (!(await this.dataStore.has(this.key))) throw new Error(`The record ${this.key} does not exist.`);
    const seconds = Number(this.ttl) > 0 ? Number(this.ttl) : null;
    await this.dataStore.setTtl(this.key, seconds);
    $.export("$summary", seconds ? `The record ${this.key} expires in ${seconds} seconds.` : `The record ${this.key} does not expire.`);
    return { key: this.key, ttl: seconds };
  },
};
