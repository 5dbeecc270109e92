// @ts-check
/**
 * The Node.js guest: runs components, one step after another, and evaluates `{{ }}`.
 *
 * Run as `node --experimental-vm-modules --experimental-import-meta-resolve --no-warnings node_guest.mjs`. Requests
 * are JSON lines; standard output and error are the step's. A request that names `texts` is followed by one line of JSON
 * for each: exports, kept as text and parsed by the step that reads them. A `begin` with `fixed` (`{ms, seed}`, else null) fixes
 * clock and chance for as long as the process lives (`node_fixed`).
 *
 * parity[process-env]: on the platform `process.env` is undefined outside the component; here it is there for the module too.
 */

import process from "node:process";
import { pathToFileURL } from "node:url";
import { declarations, Instance } from "./node_component.mjs";
import { loadComponent, rootOf } from "./node_component_file.mjs";
import { addedForRun, additionalProps, options } from "./node_configure.mjs";
import { dollar, responder, stepsOf } from "./node_dollar.mjs";
import { EntryPointError } from "./node_errors.mjs";
import { encode } from "./node_exports.mjs";
import { evaluate } from "./node_expressions.mjs";
import { install, restart } from "./node_fixed.mjs";
import { adopt, freshen, freshenAhead, stain, watch } from "./node_fresh.mjs";
import { begin as beginRequest, listen, say } from "./node_lines.mjs";
import { Loader } from "./node_loader.mjs";
import { attempt, leftBehind, locals, onLateError, restHere } from "./node_running.mjs";
import { emitter, httpInterface, perform, service } from "./node_source.mjs";
import { forget, onAnswer, voiceOf } from "./node_voice.mjs";

/** @typedef {import("./node_errors.mjs").StepCode} StepCode */

const { stringify, parse } = JSON;

/** What the run at hand has given us. */
const run = {
  /** @type {Record<string, string>} */ environment: {},
  /** @type {Record<string, string>} */ variables: {},
  folder: "",
  cwd: "/",
  /** @type {string | null} */ files: null,
  /** @type {Map<string, string>} */ texts: new Map(),
  loader: new Loader("/", watch),
};
/** @type {Map<number, string>} */
const sources = new Map();

/** @param {any} told */
function begin(told) {
  run.environment = { __proto__: null, ...told.env, ...told.variables, ...told.outside };
  run.variables = told.variables;
  run.folder = told.folder;
  run.cwd = told.cwd;
  run.files = told.files;
  run.texts = new Map();
  run.loader = new Loader(told.folder, watch, told.packages);
  forget();
  stain();
  install(told.fixed);
}

/**
 * Make ready what can be made ready before a step's turn has come.
 *
 * @param {any} told
 */
function prepare(told) {
  freshenAhead(run.environment, run.cwd);
  for (const code of told.codes) run.loader.prepare(codeOf(code));
}

/**
 * @param {any} told
 * @returns {StepCode}
 */
function codeOf(told) {
  if (told.component) {
    const { path, fresh } = told.component;
    // Node.js keeps what it has loaded, so a later run would see an old version of a file of the user's own
    if (fresh) run.loader.ownFiles = true;
    return { name: told.step, file: pathToFileURL(path).href, source: "", offset: 0, folder: run.folder, root: rootOf(path) };
  }
  if (told.source !== undefined) sources.set(told.code, told.source);
  const source = /** @type {string} */ (sources.get(told.code));
  return { name: told.step, file: told.file, source, offset: told.offset, folder: run.folder };
}

/**
 * @param {StepCode} step
 * @returns {Promise<any>} the component
 */
function load(step) {
  return step.root ? loadComponent(step, watch) : run.loader.load(step);
}

/** @param {any} told */
async function runStep(told) {
  const step = codeOf(told);
  const { workflow_id: workflow } = told.context;
  if (workflow) run.environment.PIPEDREAM_WORKFLOW_ID = String(workflow); // which actions read
  const { fault } = await attempt(step, run, async (mine) => {
    const component = await load(step);
    const voice = voiceOf(mine);
    const given = { steps: stepsOf(told.steps, run.texts), $: dollar(told.context, voice, told.flow, run.files) };
    const around = { voice, folder: run.cwd, db: service(told.db, voice.db) };
    if (typeof component !== "function" && typeof component.run !== "function") throw new EntryPointError("The component has no run method.");
    if (told.context.test && !step.root) {
      const secrets = [told.auth, { variables: run.variables }].flatMap((by) => Object.values(by).flatMap(Object.values));
      const input = [stringify(told.props), ...told.steps.map(inputText)];
      locals.watch(step, input, secrets, Object.values(given));
    }
    const isFunction = typeof component === "function";
    if (typeof component.additionalProps === "function") told.added = await addedForRun(component, told, around);
    const value = await (isFunction ? component(given) : component.run.call(new Instance(component, told, around).self, given));
    const text = encode(value, "$return_value", voice.warn);
    if (text !== undefined) voice.returned(text);
  });
  return done(fault);
}

/**
 * What a step reads of step *name*, without the context, which is another in every run.
 *
 * @param {string} name
 */
function inputText(name) {
  const text = run.texts.get(name) ?? "";
  return name === "trigger" ? text.slice(0, text.lastIndexOf('"context":')) : text;
}

/** @param {any} told */
async function runSource(told) {
  const step = codeOf(told);
  run.environment.PD_COMPONENT = told.id;
  const { fault, result } = await attempt(step, run, async (mine) => {
    const component = await load(step);
    const voice = voiceOf(mine);
    const http = httpInterface(told.endpoint, responder(voice));
    const around = { voice, folder: run.cwd, db: service(told.db, voice.db), http };
    if (typeof component.additionalProps === "function") told.added = await addedForRun(component, told, around);
    const { self } = new Instance(component, told, around);
    Object.defineProperty(self, "$emit", { value: emitter(voice), enumerable: false });
    return perform(component, told.act, self, told.event);
  });
  return done(fault, result);
}

/**
 * An operation on a component that runs none of its work.
 *
 * @param {(component: any, told: any, around: import("./node_component.mjs").Surroundings) => any} question
 */
function asking(question) {
  return async (/** @type {any} */ told) => {
    const step = codeOf(told);
    const { fault, result } = await attempt(step, run, async (mine) => {
      const around = { voice: voiceOf(mine), folder: run.cwd, db: service({}, () => {}) };
      return question(await load(step), told, around);
    });
    return done(fault, result);
  };
}

/** @param {any} told */
async function evaluateAll(told) {
  freshen(run.environment, run.cwd);
  restart("");
  const value = evaluate(told.expressions, told.steps, run);
  return { t: "done", error: null, value, busy: false, dirty: false, spoiled: false };
}

/**
 * The last line of a step.
 *
 * @param {any} fault
 * @param {any} [value]
 */
async function done(fault, value) {
  const { busy, spoiled } = await leftBehind();
  return { t: "done", error: fault, value, busy, dirty: run.loader.ownFiles, spoiled };
}

/** @type {Record<string, (told: any) => Promise<any>>} */
const OPERATIONS = {
  run: runStep,
  source: runSource,
  describe: asking(declarations),
  options: asking(options),
  additional: asking(additionalProps),
  evaluate: evaluateAll,
};

/** @type {any} */
let waiting = null;

/** @param {string} line */
function onLine(line) {
  if (waiting === null) {
    waiting = parse(line);
    if (waiting.answer !== undefined) {
      const told = waiting;
      waiting = null;
      onAnswer(told);
      return;
    }
    if (waiting.begin) begin(waiting.begin);
  } else {
    run.texts.set(waiting.texts.shift(), line);
  }
  if (waiting.texts.length) return;
  const told = waiting;
  waiting = null;
  if (told.op === "prepare") {
    prepare(told);
    return;
  }
  beginRequest(told.request);
  OPERATIONS[told.op](told).then((reply) => say(stringify(reply)));
}

const defineComponent = (/** @type {any} */ component) => component;
Object.defineProperty(globalThis, "defineComponent", { value: defineComponent, writable: true, configurable: true });
void process.stdout;
void process.stderr;
adopt();
process.on("unhandledRejection", onLateError);
process.on("uncaughtException", onLateError);
listen(onLine);
restHere();
say('{"t":"ready"}');
