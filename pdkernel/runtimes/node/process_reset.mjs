// @ts-check
/**
 * Resets the process before each step: globals, console, environment, working folder, and listeners for errors.
 *
 * Changes that packages make to globals and listeners while they are loaded remain, because packages are loaded once.
 */

/**
 * The known properties of each target; null stands for a lazy global that has not been read yet.
 *
 * @type {Map<any, Map<PropertyKey, PropertyDescriptor | null>>}
 */
const baseline = new Map();

/**
 * Names of globals that Node.js loads at the first access, which takes up to 40 ms (undici, web streams, Web Crypto). Reading a
 * descriptor is an access, so the descriptors are read only before a step whose source has such a name.
 */
const LAZY_GLOBALS =
  /\b(?:FormData|Headers|Request|Response|MessageEvent|WebSocket|CloseEvent|EventSource|Performance\w*|Crypto|CryptoKey|SubtleCrypto|(?:Readable|ReadableByte|Writable|Transform|Compression|Decompression|TextEncoder|TextDecoder)Stream\w*|(?:ByteLength|Count)QueuingStrategy)\b/;

/** Whether the lazy globals are in the baseline. */
let isComplete = false;

const TARGETS = [globalThis, console, Error];

/** Events about errors and warnings of any code: a listener that a step adds would also get those of other steps. */
const EVENTS = ["uncaughtException", "uncaughtExceptionMonitor", "unhandledRejection", "rejectionHandled", "warning"];
const { on, rawListeners, removeListener } = process;

/** The known listeners of each event. @type {Map<string, any[]>} */
const knownListeners = new Map();

/** Store the current properties and listeners as the baseline. */
export function recordBaseline() {
  for (const target of TARGETS) baseline.set(target, propertiesOf(target));
  for (const event of EVENTS) knownListeners.set(event, rawListeners.call(process, event));
}

/**
 * Prepare for a step: if its source names a lazy global, add the lazy globals to the baseline.
 *
 * @param {string} source
 */
export function expectSource(source) {
  if (isComplete || !LAZY_GLOBALS.test(source)) return;
  isComplete = true;
  const known = /** @type {Map<PropertyKey, PropertyDescriptor | null>} */ (baseline.get(globalThis));
  for (const [key, property] of propertiesOf(globalThis)) if (known.get(key) === null) known.set(key, property);
}

/**
 * Track changes to globals and listeners from now on.
 *
 * @returns {() => void} adds the changes since then to the baseline
 */
export function trackChanges() {
  const seen = TARGETS.map(propertiesOf);
  const seenListeners = EVENTS.map((event) => rawListeners.call(process, event));
  return () => {
    EVENTS.forEach((event, at) => {
      const now = rawListeners.call(process, event);
      const kept = (knownListeners.get(event) ?? []).filter((each) => now.includes(each) || !seenListeners[at].includes(each));
      const added = now.filter((each) => !seenListeners[at].includes(each));
      knownListeners.set(event, [...new Set([...kept, ...added])]); // two packages may be loaded at once
    });
    TARGETS.forEach((target, at) => {
      const now = propertiesOf(target);
      const known = /** @type {Map<PropertyKey, PropertyDescriptor>} */ (baseline.get(target));
      for (const [key, property] of now) {
        const before = seen[at].get(key);
        if (before?.value !== property?.value || before?.get !== property?.get) known.set(key, property);
      }
      for (const key of seen[at].keys()) if (!now.has(key)) known.delete(key);
    });
  };
}

/**
 * @param {any} target
 * @returns {Map<PropertyKey, any>} descriptors; null for a lazy global that is not read yet
 */
function propertiesOf(target) {
  const properties = new Map();
  for (const key of Reflect.ownKeys(target)) {
    const isLazy = !isComplete && target === globalThis && LAZY_GLOBALS.test(String(key));
    properties.set(key, isLazy ? null : Object.getOwnPropertyDescriptor(target, key));
  }
  return properties;
}

/**
 * The environment that `resetProcessAhead` has set; null if the next step needs a reset.
 *
 * @type {Record<string, string> | null}
 */
let ahead = null;

/**
 * Set the environment of the process to *environment*.
 *
 * @param {Record<string, string>} environment without a prototype
 */
function setEnvironment(environment) {
  const { env } = process; // each lookup is a call to the operating system
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
 * Reset the process ahead of a step, so that `resetProcess` has nothing to do at its start.
 *
 * @param {Record<string, string>} environment without a prototype
 * @param {string} folder
 */
export function resetProcessAhead(environment, folder) {
  ahead = null;
  try {
    resetProcess(environment, folder);
  } catch {
    return; // the run has ended and its folder was removed
  }
  ahead = { ...environment };
}

/** Discard a reset that was done ahead, because another run begins. */
export function discardPreparedReset() {
  ahead = null;
}

/**
 * Restore the baseline, and set environment and working folder.
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
  for (const [target, properties] of baseline) {
    let found = 0;
    for (const key of Reflect.ownKeys(target)) {
      const known = properties.get(key);
      if (known === undefined) Reflect.deleteProperty(target, key);
      else {
        found += 1;
        if (known === null) continue;
        const now = Object.getOwnPropertyDescriptor(target, key);
        if (now && now.value !== known.value && now.configurable) Object.defineProperty(target, key, known);
      }
    }
    if (found === properties.size) continue;
    for (const [key, known] of properties) {
      if (known !== null && !Object.hasOwn(target, key)) Object.defineProperty(target, key, known);
    }
  }
  for (const [event, known] of knownListeners) {
    const now = rawListeners.call(process, event);
    for (const each of now) if (!known.includes(each)) removeListener.call(process, event, each);
    for (const each of known) if (!now.includes(each)) on.call(process, event, each);
  }
  setEnvironment(environment);
  process.chdir(folder); // the old folder is not read, because the last run's folder was removed
  process.exitCode = undefined;
  Error.stackTraceLimit = 50;
}
