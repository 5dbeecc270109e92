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
export function recordBaseline() {
  for (const target of TARGETS) kept.set(target, propertiesOf(target));
}

/**
 * Look at everything as it is now.
 *
 * @returns {() => void} remembers what has changed since, and nothing else
 */
export function trackChanges() {
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

/**
 * The environment that the process was put back with ahead of a step's turn, for as long as nothing has run since.
 *
 * @type {Record<string, string> | null}
 */
let ahead = null;

/**
 * Make *environment* that of the process.
 *
 * @param {Record<string, string>} environment without a prototype
 */
function setEnvironment(environment) {
  const { env } = process; // whose every look-up asks the operating system
  let found = 0;
  for (const name of Object.keys(env)) {
    const value = environment[name];
    if (value === undefined) delete env[name];
    else {
      found += 1;
      if (env[name] !== value) env[name] = value;
    }
  }
  if (found < Object.keys(environment).length) Object.assign(env, environment);
}

/**
 * Do what `freshen` does before the step's turn has come, so that it has less to do then.
 *
 * @param {Record<string, string>} environment without a prototype
 * @param {string} folder
 */
export function resetProcessAhead(environment, folder) {
  ahead = null;
  try {
    resetProcess(environment, folder);
  } catch {
    return; // the run is over already, and its folder gone
  }
  ahead = { ...environment };
}

/** Another run has the process now. */
export function discardPreparedReset() {
  ahead = null;
}

/**
 * Undo what was done since to what is remembered, and set the process up.
 *
 * @param {Record<string, string>} environment without a prototype
 * @param {string} folder
 */
export function resetProcess(environment, folder) {
  if (ahead) {
    for (const name of Object.keys(environment)) {
      if (environment[name] !== ahead[name]) process.env[name] = environment[name];
    }
    ahead = null;
    return;
  }
  for (const [target, properties] of kept) {
    let found = 0;
    for (const key of Reflect.ownKeys(target)) {
      const known = properties.get(key);
      if (known === undefined) Reflect.deleteProperty(target, key);
      else {
        found += 1;
        const now = Object.getOwnPropertyDescriptor(target, key);
        if (now && now.value !== known.value && now.configurable) Object.defineProperty(target, key, known);
      }
    }
    if (found === properties.size) continue;
    for (const [key, known] of properties) {
      if (!Object.hasOwn(target, key)) Object.defineProperty(target, key, known);
    }
  }
  setEnvironment(environment);
  process.chdir(folder); // without asking where we are: the last run's folder is gone
  process.exitCode = undefined;
  Error.stackTraceLimit = 50;
}
