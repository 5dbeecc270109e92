// @ts-check
/**
 * Requests of a form that configures a component: options of a dropdown, and props that depend on other props.
 *
 * During configuration a value may be missing or a `{{ }}` expression, and an account may be known at run time only.
 * Only `options` and `additionalProps` of the component run. A run gets its additional props from this module too.
 */

import { ComponentInstance } from "./component_instance.mjs";
import { describeProp, isRequired, PropError, resolveProps, resolveProp, unwrapLabels } from "./props.mjs";

const WITHOUT = "A text or an expression can be given without.";

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
 * A page of a prop's options.
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
  if (!prop) throw new PropError(`There is no prop ${request.prop}.`);
  const given = prop.definition.options;
  if (typeof given !== "function") {
    const none = given === undefined ? `The prop ${request.prop} has no options.` : null;
    return { options: request.page ? [] : matching(listed(given), request.query), context: null, empty_reason: none };
  }
  missing.refuse();
  try {
    const more = {};
    for (const parameter of prop.parameters) Object.assign(more, await parameter(missing.watch({ ...configured, ...more })));
    const owner = prop.owner ? instance.findApp(prop.owner) : instance.self;
    const { page, query } = request;
    const asked = { ...configured, ...more, page, prevContext: request.context ?? {}, query: query ?? undefined };
    const found = await given.call(owner, missing.watch(asked));
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
 * The props that the component adds or changes for the values so far.
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
 * The props that the component adds or changes for the values of a run.
 *
 * @param {any} component which has `additionalProps`
 * @param {import("./component_instance.mjs").ComponentInput} given
 * @param {import("./component_instance.mjs").ComponentContext} around
 * @returns {Promise<import("./props.mjs").Prop[]>} empty, with a warning, if its code fails
 */
export async function resolveAdditionalPropsForRun(component, given, around) {
  // parity[added-props]: the platform's builder stores additional props with the step; in pdkernel each run computes them
  try {
    const instance = new ComponentInstance(component, { ...given, tolerant: true }, around);
    const reloading = resolveProps(component).filter(({ definition }) => definition.reloadProps);
    if (reloading.length && reloading.every(({ name }) => instance.self[name] === undefined)) return [];
    return await callAdditionalProps(component, instance);
  } catch (error) {
    const why = /** @type {any} */ (error)?.message ?? error;
    around.channel.warn(`The additional props of the action are unknown (${why}), so they have no defaults.`);
    return [];
  }
}

/**
 * @param {any} component
 * @param {ComponentInstance} instance
 * @returns {Promise<import("./props.mjs").Prop[]>}
 */
async function callAdditionalProps(component, instance) {
  const before = resolveProps(component);
  // some components change their argument and others return what they add
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
 * @param {any} component
 * @param {OptionsRequest} request
 * @param {import("./component_instance.mjs").ComponentContext} around
 */
function configuring(component, request, around) {
  const known = Object.entries(request.values).filter(([, value]) => !holdsExpression(value));
  const given = { props: Object.fromEntries(known), auth: request.auth, stores: {}, tolerant: true };
  const instance = new ComponentInstance(component, given, around);
  const configured = Object.fromEntries(known.map(([name, value]) => [name, unwrapLabels(value, false)]));
  const missing = new MissingProps(component, request);
  missing.watch(instance.self);
  return { instance, configured, missing };
}

/** The props without a value yet: expressions, and required props that are empty. */
class MissingProps {
  /** @type {Map<string, string>} name to the reason */
  #why = new Map();
  #refuses = false;
  /** @type {string | null} the reason of the first of them that was read */ read = null;

  /**
   * @param {any} component
   * @param {OptionsRequest} request
   */
  constructor(component, { prop: asked, values }) {
    for (const prop of resolveProps(component)) {
      const isEmpty = values[prop.name] === undefined || values[prop.name] === null || values[prop.name] === "";
      if (isEmpty && isRequired(prop) && prop.name !== asked) this.#why.set(prop.name, unfilled(prop));
    }
    for (const [name, value] of Object.entries(values)) if (holdsExpression(value)) this.#why.set(name, expression(name));
  }

  /** Throw from now on when one of them is read: an outbound call without its value would fail. */
  refuse() {
    this.#refuses = true;
    this.read = null;
  }

  /** @param {any} target the object whose reads are tracked */
  watch(target) {
    for (const [name, why] of this.#why) {
      if (target[name] !== undefined && target[name] !== "") continue;
      const get = () => {
        this.read ??= why;
        if (this.#refuses) throw new PropError(why);
      };
      const set = (/** @type {any} */ value) => Object.defineProperty(target, name, { value, writable: true });
      // not enumerable, because spreading all values does not depend on this one
      Object.defineProperty(target, name, { get, set, enumerable: false, configurable: true });
    }
    return target;
  }
}

/**
 * @param {any} value
 * @returns {boolean}
 */
function holdsExpression(value) {
  if (typeof value === "string") return value.includes("{{");
  return value !== null && typeof value === "object" && Object.values(value).some(holdsExpression);
}

/** @param {string} name */
function expression(name) {
  return `Choices depend on the prop ${name}, whose value is an expression and not known until the run. ${WITHOUT}`;
}

/** @param {import("./props.mjs").Prop} prop */
function unfilled({ name, definition: { label } }) {
  const called = label && label.toLowerCase() !== name.toLowerCase() ? `${name} ("${label}")` : name;
  return `Choices depend on the prop ${called}: fill it first. ${WITHOUT}`;
}

/** @param {string} reason @returns {Page} */
function emptyPage(reason) {
  return { options: [], context: null, empty_reason: reason };
}

/**
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
 * @param {{label: string, value: any}[]} list
 * @param {string | null} query
 */
function matching(list, query) {
  if (!query) return list;
  const wanted = query.toLowerCase();
  return list.filter(({ label, value }) => label.toLowerCase().includes(wanted) || String(value).toLowerCase().includes(wanted));
}
