// @ts-check
/**
 * Puts the process back to how a step should find it: globals, console, environment, working folder.
 *
 * Knows what may be changed by one step and seen by the next. What packages do to globals while they load is theirs to
 * keep, because they load once.
 */

/** @type {Map<any, Map<PropertyKey, PropertyDescriptor>>} */
const kept = new Map();

const TARGETS = [globalThis, console];

/** Remember everything as it is now. */
export function adopt() {
  for (const target of TARGETS) kept.set(target, propertiesOf(target));
}

/**
 * Look at everything as it is now.
 *
 * @returns {() => void} remembers what has changed since, and nothing else
 */
export function watch() {
  const seen = TARGETS.map(propertiesOf);
  return () => {
    TARGETS.forEach((target, at) => {
      const now = propertiesOf(target);
      const known = /** @type {Map<PropertyKey, PropertyDescriptor>} */ (kept.get(target));
      for (const [key, property] of now) {
        const before = seen[at].get(key);
        if (before?.value !== property.value || before?.get !== property.get) known.set(key, property);
      }
      for (const key of seen[at].keys()) if (!now.has(key)) known.delete(key);
    });
  };
}

/**
 * @param {any} target
 * @returns {Map<PropertyKey, PropertyDescriptor>}
 */
function propertiesOf(target) {
  const properties = new Map();
  for (const key of Reflect.ownKeys(target)) properties.set(key, Object.getOwnPropertyDescriptor(target, key));
  return properties;
}

/** Whether nothing has run since the process was put back. */
let untouched = false;

/** The environment of the process is *environment*. */
function environ(/** @type {Record<string, string>} */ environment) {
  for (const name of Object.keys(process.env)) {
    if (!Object.hasOwn(environment, name)) delete process.env[name];
  }
  for (const [name, value] of Object.entries(environment)) {
    if (process.env[name] !== value) process.env[name] = value;
  }
}

/**
 * Do what `freshen` does before the step's turn has come, so that it has less to do then.
 *
 * @param {Record<string, string>} environment
 * @param {string} folder
 */
export function freshenAhead(environment, folder) {
  untouched = false;
  try {
    freshen(environment, folder);
  } catch {
    return; // the run is over already, and its folder gone
  }
  untouched = true;
}

/** Another run has the process now. */
export function stain() {
  untouched = false;
}

/**
 * Undo what was done since to what is remembered, and set the process up.
 *
 * @param {Record<string, string>} environment
 * @param {string} folder
 */
export function freshen(environment, folder) {
  if (untouched) {
    untouched = false;
    environ(environment);
    return;
  }
  for (const [target, properties] of kept) {
    for (const key of Reflect.ownKeys(target)) {
      const known = properties.get(key);
      if (known === undefined) Reflect.deleteProperty(target, key);
      else {
        const now = Object.getOwnPropertyDescriptor(target, key);
        if (now && now.value !== known.value && now.configurable) Object.defineProperty(target, key, known);
      }
    }
    for (const [key, known] of properties) {
      if (!Object.hasOwn(target, key)) Object.defineProperty(target, key, known);
    }
  }
  environ(environment);
  process.chdir(folder); // without asking where we are: the last run's folder is gone
  process.exitCode = undefined;
  Error.stackTraceLimit = 50;
}
