// @ts-check
/**
 * The data store in a Node.js step (`this.<prop>`), with the methods that the platform documents.
 *
 * Each method calls a service of pdkernel, which stores the values.
 */

import { inspect } from "node:util";
import { encodeJson, ExportNotJSONError } from "./export_encoding.mjs";

/**
 * @typedef {object} StoreChannel
 * @property {(call: string, text: string) => Promise<any>} ask
 * @property {(text: string) => void} warn
 */

/** A key or value is not valid in a data store. */
export class StoreValueError extends TypeError {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "StoreValueError";
    this.pdkernelCode = "store_value";
  }
}

/** One data store. Every method is asynchronous. */
export class DataStore {
  /** @type {string} */ #name;
  /** @type {StoreChannel} */ #channel;

  /**
   * @param {string} name
   * @param {StoreChannel} channel
   */
  constructor(name, channel) {
    this.#name = name;
    this.#channel = channel;
  }

  /**
   * @param {string} key
   * @returns {Promise<any>} undefined if there is no such record
   */
  async get(key) {
    return (await this.#do("get", { key }))?.value;
  }

  /**
   * @param {string} key
   * @param {any} value
   * @param {{ttl?: number | null}} [options] `ttl`: seconds until the record expires
   */
  async set(key, value, options) {
    const where = `${this.#name}[${inspect(key)}]`;
    /** @type {string | undefined} */
    let text;
    try {
      text = encodeJson(value, where, this.#channel.warn, "stored");
    } catch (error) {
      if (error instanceof ExportNotJSONError) throw new StoreValueError(error.message);
      throw error;
    }
    if (text === undefined) {
      throw new StoreValueError(`${where} cannot be set to ${inspect(value)}, which JSON does not support. Use delete, or set null.`);
    }
    await this.#do("set", { key, ttl: options?.ttl ?? null }, `,"value":${text}`);
  }

  /**
   * @param {string} key
   * @param {number | null} [ttl] seconds until the record expires; null: never
   */
  async setTtl(key, ttl = null) {
    await this.#do("set_ttl", { key, ttl });
  }

  /**
   * @param {string} key
   * @returns {Promise<boolean>}
   */
  async has(key) {
    return this.#do("has", { key });
  }

  /** @returns {Promise<string[]>} in the order in which they were first set */
  async keys() {
    const keys = [];
    for await (const key of this.#pages("keys")) keys.push(key);
    return keys;
  }

  /** @returns {AsyncGenerator<[string, any]>} */
  async *entries() {
    yield* this.#pages("entries");
  }

  [Symbol.asyncIterator]() {
    return this.entries();
  }

  /** @param {string} key */
  async delete(key) {
    await this.#do("delete", { key });
  }

  async clear() {
    await this.#do("clear", {});
  }

  [inspect.custom]() {
    return `[data store ${inspect(this.#name)}]`;
  }

  /**
   * @param {"keys" | "entries"} what
   * @returns {AsyncGenerator<any>}
   */
  async *#pages(what) {
    let after = null;
    do {
      const page = /** @type {any} */ (await this.#do(what, { after }));
      yield* page[what];
      after = page.after;
    } while (after !== null);
  }

  /**
   * @param {string} operation
   * @param {Record<string, any>} args
   * @param {string} [more] JSON text of further properties
   * @returns {Promise<any>}
   */
  #do(operation, args, more = "") {
    if ("key" in args && typeof args.key !== "string") {
      throw new StoreValueError(`A key of a data store must be a text, not ${inspect(args.key)}. Use String(...).`);
    }
    const text = JSON.stringify({ store: this.#name, ...args });
    return this.#channel.ask(`store.${operation}`, text.slice(0, -1) + more + "}");
  }
}
