// @ts-check
/**
 * Serves a form that configures a component: options of a dropdown, and props that depend on other props.
 *
 * During configuration a value may be missing or a `{{ }}` expression, and an account may be known at run time only. Of the
 * component, only `options` and `additionalProps` run. The additional props of a run also come from this module.
 */

import { ComponentInstance } from "./component_instance.mjs";
import { describeProp, isRequired, PropError, resolveProps, resolveProp, unwrapLabels } from "./props.mjs";

const ALTERNATIVE = "You can type a text or an expression instead."; // as in operations/actions.py

/**
 * @typedef {object} OptionsRequest
 * @property {string} prop
 * @property {Record<string, any>} values
 * @property {Record<string, Record<string, string>>} auth
 * @property {number} page
 * @property {any} context
 * @property {string | null} query
 * @typedef {{options: {label: string, value: any}[], context: any, empty_reason: string | null}} Page
 */

/**
 * Load a page of a prop's options.
 *
 * @param {any} component
 * @param {OptionsRequest} request
 * @param {import("./component_instance.mjs").ComponentContext} around
 * @returns {Promise<Page>}
 */
export async function loadOptions(component, request, around) {
  const { instance, configured, missing } = configuring(component, request, around);
  let prop = resolveProps(component).find(({ name }) => name === request.prop);
  if (!prop && typeof component.additionalProps === "function") {
    prop = (await callAdditionalProps(component, instance)).find(({ name }) => name === request.prop);
  }
  if (!prop && missing.read) return emptyPage(missing.read);
  if (!prop) throw new PropError(`The component has no prop ${request.prop}.`);
  const source = prop.definition.options;
  if (typeof source !== "function") {
    const none = source === undefined ? `The prop ${request.prop} has no options.` : null;
    return { options: request.page ? [] : matching(listed(source), request.query), context: null, empty_reason: none };
  }
  missing.refuse();
  try {
    const more = {};
    for (const parameter of prop.parameters) Object.assign(more, await parameter(missing.watch({ ...configured, ...more })));
    const owner = prop.owner ? instance.findApp(prop.owner) : instance.self;
    const { page, query } = request;
    const argument = { ...configured, ...more, page, prevContext: request.context ?? {}, query: query ?? undefined };
    const found = await source.call(owner, missing.watch(argument));
    // the component's code may have caught the error
    if (missing.read) return emptyPage(missing.read);
    const list = listed(Array.isArray(found) ? found : found?.options);
    const context = Array.isArray(found) ? null : (found?.context ?? null);
    return { options: prop.definition.useQuery ? list : matching(list, query), context, empty_reason: null };
  } catch (error) {
    // the component's code may have thrown its own error about a value that it could not read
    if (instance.unknown) return emptyPage(`The ${instance.unknown} account is only known at run time.`);
    if (missing.read) return emptyPage(missing.read);
    throw error;
  }
}

/**
 * Return the props that the component adds or changes for the values that the form has so far.
 *
 * @param {any} component
 * @param {OptionsRequest} request
 * @param {import("./component_instance.mjs").ComponentContext} around
 */
export async function resolveAdditionalProps(component, request, around) {
  if (typeof component.additionalProps !== "function") return [];
  const { instance } = configuring(component, request, around);
  try {
    return (await callAdditionalProps(component, instance)).map(describeProp);
  } catch (error) {
    if (instance.unknown) throw new PropError(`The ${instance.unknown} account is only known at run time.`);
    throw error;
  }
}

/**
 * Return the props that the component adds or changes for the values of a run.
 *
 * @param {any} component which has `additionalProps`
 * @param {import("./component_instance.mjs").ComponentInput} input
 * @param {import("./component_instance.mjs").ComponentContext} around
 * @returns {Promise<import("./props.mjs").Prop[]>} empty, with a warning, if its code fails
 */
export async function resolveAdditionalPropsForRun(component, input, around) {
  // parity[added-props]: the platform's builder stores additional props with the step; in pdkernel each run computes them
  try {
    const instance = new ComponentInstance(component, { ...input, tolerant: true }, around);
    const reloading = resolveProps(component).filter(({ definition }) => definition.reloadProps);
    if (reloading.length && reloading.every(({ name }) => instance.self[name] === undefined)) return [];
    return await callAdditionalProps(component, instance);
  } catch (error) {
    const why = /** @type {any} */ (error)?.message ?? error;
    around.channel.warn(`The additional props of the action cannot be computed (${why}), so they have no defaults.`);
    return [];
  }
}

/**
 * Call `additionalProps` of a component; returns the props that it added or changed.
 *
 * @param {any} component
 * @param {ComponentInstance} instance
 * @returns {Promise<import("./props.mjs").Prop[]>}
 */
async function callAdditionalProps(component, instance) {
  const before = resolveProps(component);
  // some components change their argument, and others return the props that they add
  const existing = Object.fromEntries(before.map(({ name, definition }) => [name, { ...definition }]));
  const returned = await component.additionalProps.call(instance.self, existing);
  const changed = before.filter(({ name, definition }) => existing[name] && differs(existing[name], definition));
  const names = new Set(before.map(({ name }) => name));
  const props = changed.map((prop) => ({ ...prop, definition: existing[prop.name] }));
  for (const name of Object.keys(existing)) if (!names.has(name)) props.push(resolveProp(name, existing[name]));
  for (const [name, declared] of Object.entries(returned ?? {})) props.push(resolveProp(name, declared));
  return [...new Map(props.map((prop) => [prop.name, prop])).values()];
}

/**
 * @param {any} now
 * @param {any} before
 */
function differs(now, before) {
  return Object.keys({ ...now, ...before }).some((key) => now[key] !== before[key]);
}

/**
 * Create an instance of a component for a form: values that are not known yet are tracked.
 *
 * @param {any} component
 * @param {OptionsRequest} request
 * @param {import("./component_instance.mjs").ComponentContext} around
 */
function configuring(component, request, around) {
  const known = Object.entries(request.values).filter(([, value]) => !holdsExpression(value));
  const input = { props: Object.fromEntries(known), auth: request.auth, stores: {}, tolerant: true };
  const instance = new ComponentInstance(component, input, around);
  const configured = Object.fromEntries(known.map(([name, value]) => [name, unwrapLabels(value, false)]));
  const missing = new MissingProps(component, request);
  missing.watch(instance.self);
  return { instance, configured, missing };
}

/** Tracks the props without a known value: expressions, and required props that are empty. */
class MissingProps {
  /** @type {Map<string, string>} name to the reason */
  #why = new Map();
  #refuses = false;
  /** @type {string | null} the reason for the first of these props that was read */ read = null;

  /**
   * @param {any} component
   * @param {OptionsRequest} request
   */
  constructor(component, { prop: requestedProp, values }) {
    for (const prop of resolveProps(component)) {
      const isEmpty = values[prop.name] === undefined || values[prop.name] === null || values[prop.name] === "";
      if (isEmpty && isRequired(prop) && prop.name !== requestedProp) this.#why.set(prop.name, unfilled(prop));
    }
    for (const [name, value] of Object.entries(values)) if (holdsExpression(value)) this.#why.set(name, expression(name));
  }

  /** Throw an error from now on if one of these props is read, because an outbound call without its value would fail. */
  refuse() {
    this.#refuses = true;
    this.read = null;
  }

  /**
   * Track the reads of these props.
   *
   * @param {any} target the object with the values
   */
  watch(target) {
    for (const [name, why] of this.#why) {
      if (target[name] !== undefined && target[name] !== "") continue;
      const get = () => {
        this.read ??= why;
        if (this.#refuses) throw new PropError(why);
      };
      const set = (/** @type {any} */ value) => Object.defineProperty(target, name, { value, writable: true });
      // not enumerable, because copying all values is not a read of this value
      Object.defineProperty(target, name, { get, set, enumerable: false, configurable: true });
    }
    return target;
  }
}

/**
 * Whether a value contains a `{{ }}` expression.
 *
 * @param {any} value
 * @returns {boolean}
 */
function holdsExpression(value) {
  if (typeof value === "string") return value.includes("{{");
  return value !== null && typeof value === "object" && Object.values(value).some(holdsExpression);
}

/** @param {string} name */
function expression(name) {
  return `Choices depend on the prop ${name}, whose value is an expression that is known at run time only. ${ALTERNATIVE}`;
}

/** @param {import("./props.mjs").Prop} prop */
function unfilled({ name, definition: { label } }) {
  const called = label && label.toLowerCase() !== name.toLowerCase() ? `${name} ("${label}")` : name;
  return `Choices depend on the prop ${called}. Set that prop first. ${ALTERNATIVE}`;
}

/** @param {string} reason @returns {Page} */
function emptyPage(reason) {
  return { options: [], context: null, empty_reason: reason };
}

/**
 * Return options with labels; a value without a label is its own label.
 *
 * @param {any} items
 * @returns {{label: string, value: any}[]}
 */
function listed(items) {
  if (!Array.isArray(items)) return [];
  return items.map((item) => {
    const isLabelled = item !== null && typeof item === "object" && ("value" in item || "label" in item);
    const value = isLabelled ? (item.value ?? item.label) : item;
    return { label: String((isLabelled ? item.label : undefined) ?? (typeof value === "object" ? JSON.stringify(value) : value)), value };
  });
}

/**
 * Return the options whose label or value contains *query*.
 *
 * @param {{label: string, value: any}[]} list
 * @param {string | null} query
 */
function matching(list, query) {
  if (!query) return list;
  const lowerQuery = query.toLowerCase();
  return list.filter(({ label, value }) => label.toLowerCase().includes(lowerQuery) || String(value).toLowerCase().includes(lowerQuery));
}
