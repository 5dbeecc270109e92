// @ts-check
/**
 * The props of a component: their declarations, and their values on `this`.
 *
 * It follows the prop definitions of the platform's component API page: `propDefinition` to any depth, defaults, values with labels,
 * and conversion of values that are written as text. `component_instance.mjs` creates the objects for apps and stores.
 */

const INTEGER = /^\s*[+-]?\d+\s*$/;
/** Types whose value the user does not enter. */
const TYPES_WITHOUT_VALUE = /^(alert|app|dir|data_store|\$\..*)$/;

/**
 * @typedef {object} Prop a prop, merged with its `propDefinition`
 * @property {string} name
 * @property {any} definition the merged definition; the component's own values take precedence
 * @property {string} type
 * @property {any} owner the app that defines the prop's `options`, or null if the component defines them
 * @property {Function[]} parameters functions of each `propDefinition` that return arguments for `options`, outermost first
 */

/** A prop is missing, invalid, or declared incorrectly. */
export class PropError extends Error {
  /**
   * @param {string} message
   * @param {string} [fix]
   * @param {string} [prop] the name of the invalid prop
   */
  constructor(message, fix = "", prop = "") {
    super(message);
    this.name = "ConfigurationError";
    this.pdkernelCode = "configuration";
    this.pdkernelFix = fix;
    this.pdkernelProp = prop;
  }
}

/** @type {WeakMap<object, Prop[]>} */
const known = new WeakMap();

/**
 * Return the props of a component, in the order of declaration.
 *
 * @param {any} component
 * @returns {Prop[]}
 */
export function resolveProps(component) {
  const declared = component?.props;
  if (!declared || typeof declared !== "object") return [];
  let props = known.get(declared);
  if (!props) {
    props = Object.entries(declared).map(([name, definition]) => resolveProp(name, definition));
    known.set(declared, props);
  }
  return props;
}

/**
 * Merge the declaration of a prop with its `propDefinition`.
 *
 * @param {string} name
 * @param {any} declared as written
 * @returns {Prop}
 */
export function resolveProp(name, declared) {
  const { definition, owner, parameters } = resolved(name, declared, 0);
  return { name, definition, owner, parameters, type: typeof definition.type === "string" ? definition.type : "any" };
}

/**
 * @param {string} name
 * @param {any} declared
 * @param {number} depth
 * @returns {{definition: any, owner: any, parameters: Function[]}}
 */
function resolved(name, declared, depth) {
  if (typeof declared === "string") return { definition: { type: declared }, owner: null, parameters: [] };
  if (!declared || typeof declared !== "object") return { definition: { type: "any" }, owner: null, parameters: [] };
  const { propDefinition, ...own } = declared;
  if (!Array.isArray(propDefinition)) return { definition: declared, owner: null, parameters: [] };
  const [app, key, parameter] = propDefinition;
  const below = app?.propDefinitions?.[key];
  if (below === undefined || depth > 50) {
    const what = `propDefinition [${app?.app ?? typeof app}, ${JSON.stringify(key)}]`;
    throw new PropError(`The prop ${name} refers to ${what}, which ${depth > 50 ? "refers to itself" : "does not exist"}.`, "", name);
  }
  const inner = resolved(name, below, depth + 1);
  const definition = { ...inner.definition, ...own };
  if ("options" in own) return { definition, owner: null, parameters: [] };
  const parameters = typeof parameter === "function" ? [parameter, ...inner.parameters] : inner.parameters;
  return { definition, owner: inner.owner ?? app, parameters };
}

/**
 * Describe a prop as JSON.
 *
 * @param {Prop} prop
 * @returns {{name: string, type: string, optional: boolean, definition: any}}
 */
export function describeProp(prop) {
  const { methods, propDefinitions, propDefinition, ...declared } = prop.definition;
  const definition = JSON.parse(JSON.stringify(declared, (_key, value) => (typeof value === "bigint" ? String(value) : value)));
  if (typeof declared.options === "function") definition.dynamic = true;
  return { name: prop.name, type: prop.type, optional: !isRequired(prop), definition };
}

/**
 * Whether a step must set a prop.
 *
 * @param {Prop} prop
 */
export function isRequired({ type, definition }) {
  // parity[hidden-props]: a prop that the builder does not show is not required, even if it is not marked as optional
  if (definition.optional || definition.hidden || definition.disabled) return false;
  return !("default" in definition) && !TYPES_WITHOUT_VALUE.test(type);
}

/**
 * Resolve the values of the props that the user enters.
 *
 * @param {Prop[]} props
 * @param {Record<string, any>} entered
 * @param {{configured: string[], warn: (text: string) => void}} step the names of props that the step sets, even without a value
 * @returns {Record<string, any>} the props with a value; a value of *entered* without a prop only loses its labels
 */
export function resolveValues(props, entered, { configured, warn }) {
  /** @type {Record<string, any>} */
  const result = {};
  for (const [name, value] of Object.entries(entered)) result[name] = unwrapLabels(value, false);
  for (const prop of props) {
    const { name, type, definition } = prop;
    if (entered[name] !== undefined && entered[name] !== null) {
      result[name] = convertValue(type, unwrapLabels(entered[name], Boolean(definition.withLabel)));
      misfits(prop, result[name], warn);
      limits(prop, result[name], warn);
    } else if (definition.default !== undefined && entered[name] === undefined) {
      result[name] = structuredClone(definition.default);
    } else if (isRequired(prop)) {
      if (!configured.includes(name)) throw missing(prop);
      warn(`The prop ${name} is required, but its expression evaluates to ${entered[name] === null ? "null" : "undefined"}.`);
    }
  }
  return result;
}

/**
 * Build the error for a required prop that the step does not set.
 *
 * @param {Prop} prop
 */
function missing({ name, type, definition }) {
  const { label, options } = definition;
  const called = label && label.toLowerCase() !== name.toLowerCase() ? `${name} ("${label}")` : name;
  const first = Array.isArray(options) ? options[0] : undefined;
  const example = first === undefined ? `<${type}>` : JSON.stringify(first?.value ?? first);
  return new PropError(
    `The prop ${called} is required, but the step does not set it.`,
    `Set it in the props of the step (${name}: ${example}), or in the directive of a code step: --prop ${name}=VALUE`,
    name,
  );
}

/**
 * Warn if the value of a number or boolean prop has another type, so that the user checks the prop and not the code.
 *
 * @param {Prop} prop
 * @param {any} value as converted
 * @param {(text: string) => void} warn
 */
function misfits({ name, type }, value, warn) {
  const [expected, fits] =
    type === "integer" || type === "integer[]"
      ? ["a whole number", Number.isInteger]
      : type === "boolean" || type === "boolean[]"
        ? ["true or false", (/** @type {any} */ one) => typeof one === "boolean"]
        : ["", () => true];
  for (const one of type.endsWith("[]") && Array.isArray(value) ? value : [value]) {
    if (!fits(one)) warn(`The prop ${name} expects ${expected}, but its value is ${typeof one === "string" ? JSON.stringify(one.slice(0, 50)) : `of type ${typeof one}`}.`);
  }
}

/**
 * Warn if a number is outside of the prop's limits.
 *
 * parity[prop-limits]: it is only a warning, because the platform does not check the value of an expression.
 *
 * @param {Prop} prop
 * @param {any} value
 * @param {(text: string) => void} warn
 */
function limits({ name, definition: { min, max } }, value, warn) {
  for (const number of Array.isArray(value) ? value : [value]) {
    if (typeof number !== "number") continue;
    if (typeof min === "number" && number < min) warn(`The prop ${name} is ${number}, but its minimum is ${min}.`);
    if (typeof max === "number" && number > max) warn(`The prop ${name} is ${number}, but its maximum is ${max}.`);
  }
}

/**
 * Return a value without the label that a dropdown added; with *withLabel*, return every value with a label.
 *
 * @param {any} value
 * @param {boolean} withLabel
 * @returns {any}
 */
export function unwrapLabels(value, withLabel) {
  if (Array.isArray(value)) return value.map((item) => unwrapLabels(item, withLabel));
  const wrapped = value && typeof value === "object" ? value.__lv : undefined;
  if (wrapped === undefined) {
    if (!withLabel || value === null || (typeof value === "object" && "value" in value)) return value;
    return { label: String(value), value };
  }
  if (Array.isArray(wrapped)) return wrapped.map((item) => (withLabel ? item : (item?.value ?? item)));
  if (!Array.isArray(wrapped?.value) || !Array.isArray(wrapped?.label)) return withLabel ? wrapped : wrapped?.value;
  const { label, value: values } = wrapped;
  return withLabel ? values.map((/** @type {any} */ one, /** @type {number} */ i) => ({ label: label[i], value: one })) : values;
}

/**
 * Convert a value that was written as text, or as a list of one expression, to its type.
 *
 * parity[value-types]: the platform does not document these conversions; any other value is returned unchanged.
 *
 * @param {string} type
 * @param {any} value
 * @returns {any}
 */
export function convertValue(type, value) {
  if (type.endsWith("[]")) {
    const list = typeof value === "string" ? (json(value, Array.isArray) ?? [value]) : value;
    if (!Array.isArray(list)) return typeof list === "object" && list !== null && !("value" in list) ? list : [list];
    // `["{{steps.x.list}}"]`: one expression gives the whole list
    const flat = list.length === 1 && Array.isArray(list[0]) ? list[0] : list;
    return flat.map((item) => convertValue(type.slice(0, -2), item));
  }
  if (typeof value !== "string") return value;
  switch (type) {
    case "integer":
      return INTEGER.test(value) && Number.isSafeInteger(Number(value)) ? Number(value) : value;
    case "boolean":
      return value === "true" ? true : value === "false" ? false : value;
    case "object":
    case "http_request":
      return json(value, (found) => typeof found === "object" && found !== null) ?? value;
    case "sql":
      return json(value, (found) => typeof found?.query === "string") ?? { query: value, params: [] };
    default:
      return value;
  }
}

/**
 * Parse the JSON text of an object or list.
 *
 * @param {string} text
 * @param {(found: any) => boolean} fits
 * @returns {any} undefined if the text is not JSON, or if the value does not fit
 */
function json(text, fits) {
  if (!/^\s*[[{]/.test(text)) return undefined;
  try {
    const found = JSON.parse(text);
    return fits(found) ? found : undefined;
  } catch {
    return undefined;
  }
}
