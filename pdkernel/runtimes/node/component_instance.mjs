// @ts-check
/**
 * `this` of a component: bound methods, app instances, data stores and the values of its props.
 *
 * It follows the platform's documented component API. It is created for each run, because components write to `this`. An app's
 * `$auth` is not enumerable, so that printing or returning the app exposes no credential.
 */

import { UnsupportedFeatureError } from "./error_report.mjs";
import { createHttpRequest } from "./http_request.mjs";
import { describeProp, isRequired, resolveProps, resolveValues } from "./props.mjs";
import { DataStore } from "./data_store.mjs";

/**
 * @typedef {import("./props.mjs").Prop} Prop
 * @typedef {object} ComponentInput the input for the props of one run
 * @property {Record<string, any>} props
 * @property {Record<string, Record<string, string>>} auth by prop name or app slug
 * @property {Record<string, string>} stores the name of the data store by prop
 * @property {string[]} [configured] the names of props that the step sets, even without a value
 * @property {Prop[]} [added] the props that the component adds or changes for these values
 * @property {boolean} [tolerant] true while a form configures the component: no prop is required, and an account may be missing
 * @typedef {object} ComponentContext
 * @property {import("./step_api.mjs").StepChannel} channel
 * @property {string} folder for temporary files
 * @property {any} [db] the value of `$.service.db` props
 * @property {any} [http] the value of `$.interface.http` props; undefined outside of sources
 */

/** The type of a prop for which the builder lists the channels of a Discord server. */
const DISCORD_CHANNEL = /^\$\.discord\.channel(\[\])?$/;

/** While it is configured, the component read an account that is known at run time only. */
export class AccountUnknownError extends Error {
  /** @param {string} app */
  constructor(app) {
    super(`The ${app} account is only known at run time.`);
    this.name = "AccountUnknownError";
    this.pdkernelCode = "account_unknown";
  }
}

/** Builds `this` of a component (`self`), with its app instances. */
export class ComponentInstance {
  /** @type {any} */ self = {};
  /** @type {Map<any, any>} app definition to its instance */ #apps = new Map();
  /** @type {ComponentInput} */ #input;
  /** The app whose account was read although it is not known yet. */
  /** @type {string | null} */ unknown = null;

  /**
   * @param {any} component the default export
   * @param {ComponentInput} input
   * @param {ComponentContext} around
   */
  constructor(component, input, around) {
    const { self } = this;
    this.#input = input;
    const props = withAdded(resolveProps(component), input.added);
    bind(self, component.methods);
    for (const [name, fields] of Object.entries(input.auth)) self[name] = this.#app(undefined, name, fields);
    const configured = input.tolerant ? props.map((prop) => prop.name) : (input.configured ?? Object.keys(input.props));
    const warn = input.tolerant ? () => {} : around.channel.warn;
    Object.assign(self, resolveValues(props, input.props, { configured, warn }));
    for (const [name, store] of Object.entries(input.stores)) self[name] = new DataStore(store, around.channel);
    for (const prop of props) this.#place(prop, around);
  }

  /**
   * Return the instance of the app that a prop's `propDefinition` refers to.
   *
   * @param {any} definition
   */
  findApp(definition) {
    const found = this.#apps.get(definition);
    if (found) return found;
    for (const [known, instance] of this.#apps) if (known.app === definition.app) return instance;
    return this.#app(definition, definition.app, undefined);
  }

  /**
   * Set the property of `this` for a prop whose value is an object: app, data store, HTTP request, interface.
   *
   * @param {Prop} prop
   * @param {ComponentContext} around
   */
  #place({ name, type, definition }, around) {
    const { self } = this;
    if (type === "app") self[name] = this.#app(definition, name, undefined);
    else if (type === "data_store") {
      if (!(self[name] instanceof DataStore)) self[name] = new DataStore("", around.channel); // no store is configured
    } else if (type === "http_request") {
      if (self[name] !== undefined) self[name] = createHttpRequest({ ...definition.default, ...self[name] });
    } else if (type === "dir") self[name] ??= around.folder;
    else if (type === "$.service.db") self[name] = around.db;
    else if (type === "$.interface.http" && around.http) self[name] = around.http;
    else if (type.startsWith("$.interface.") && around.http) self[name] ??= { ...definition.static };
    else if (DISCORD_CHANNEL.test(type)) return; // the id of a channel, or a list of ids, which the form holds
    else if (type.startsWith("$.") && !this.#input.tolerant) throw new UnsupportedFeatureError(`A prop of type ${type} (${name}) in a step`);
  }

  /**
   * @param {any} definition
   * @param {string} name
   * @param {Record<string, string> | undefined} fields
   */
  #app(definition, name, fields) {
    const self = /** @type {any} */ ({});
    const { auth, tolerant } = this.#input;
    bind(self, definition?.methods);
    const known = fields ?? auth[name] ?? auth[definition?.app];
    const value = known || !tolerant ? { ...known } : this.unknownApp(definition?.app ?? name);
    Object.defineProperty(self, "$auth", { value, enumerable: false, writable: true, configurable: true });
    if (definition) this.#apps.set(definition, self);
    return self;
  }

  /**
   * Return an `$auth` that throws `AccountUnknownError` when it is read.
   *
   * @param {string} app
   */
  unknownApp(app) {
    const refuse = () => {
      this.unknown = app;
      throw new AccountUnknownError(app);
    };
    return new Proxy(
      {},
      {
        get: (_target, key) => (typeof key === "symbol" || key === "then" || key === "toJSON" ? undefined : refuse()),
        has: refuse,
        ownKeys: refuse,
      },
    );
  }
}

/**
 * Add the props that the component adds for its values. An added prop is required only if it was declared as required, because
 * the last state of the builder's form is not known.
 *
 * @param {Prop[]} declared
 * @param {Prop[]} [added]
 */
function withAdded(declared, added) {
  if (!added?.length) return declared;
  const required = new Set(declared.filter(isRequired).map(({ name }) => name));
  const more = added.map((prop) =>
    required.has(prop.name) ? prop : { ...prop, definition: { ...prop.definition, optional: true } },
  );
  return [...new Map([...declared, ...more].map((prop) => [prop.name, prop])).values()];
}

/**
 * Describe a component as JSON: its fields, hooks, apps and props.
 *
 * @param {any} component
 * @returns {any}
 */
export function describeComponent(component) {
  const props = resolveProps(component);
  const { key, name, description, version, type, dedupe, hooks } = component;
  const words = Object.entries({ key, name, description, version, type, dedupe }).filter(([, word]) => typeof word === "string");
  return {
    ...Object.fromEntries(words),
    hooks: Object.keys(hooks ?? {}),
    additional: typeof component.additionalProps === "function",
    apps: props.filter((prop) => prop.type === "app").map((prop) => ({ prop: prop.name, app: String(prop.definition.app) })),
    props: props.filter((prop) => prop.type !== "app").map(describeProp),
  };
}

/**
 * Copy *methods* to *target*, with functions bound to it.
 *
 * @param {any} target
 * @param {any} methods
 */
function bind(target, methods) {
  for (const [name, method] of Object.entries(methods ?? {})) {
    target[name] = typeof method === "function" ? method.bind(target) : method;
  }
}
