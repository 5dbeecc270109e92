// @ts-check
/**
 * The Node.js guest: runs components, one step after another, and evaluates `{{ }}`.
 *
 * Run as `node --experimental-vm-modules --experimental-import-meta-resolve --no-warnings main.mjs`. Requests
 * are JSON lines; standard output and error are the step's. A request that names `texts` is followed by one line of JSON
 * for each: exports, kept as text and parsed by the step that reads them. A `begin` with `fixed` (`{ms, seed}`, else null) fixes
 * clock and chance for as long as the process lives (`node_fixed`).
 *
 * parity[process-env]: on the platform `process.env` is undefined outside the component; here it is there for the module too.
 */

import process from "node:process";
import { pathToFileURL } from "node:url";
import { describeComponent, ComponentInstance } from "./component_instance.mjs";
import { loadComponent, findPackageRoot } from "./component_file.mjs";
import { resolveAdditionalPropsForRun, resolveAdditionalProps, loadOptions } from "./prop_options.mjs";
import { createStepApi, createResponder, createSteps } from "./step_api.mjs";
import { EntryPointError } from "./error_report.mjs";
import { encodeJson } from "./export_encoding.mjs";
import { evaluateExpressions } from "./expressions.mjs";
import { installDeterminism, restartForStep } from "./determinism.mjs";
import { recordBaseline, resetProcess, resetProcessAhead, discardPreparedReset, trackChanges } from "./process_reset.mjs";
import { begin as beginRequest, readLines, sendLine } from "./line_transport.mjs";
import { ModuleLoader } from "./module_loader.mjs";
import { runStepWork, findLeftovers, frameLocals, handleLateError, recordIdleResources } from "./step_runner.mjs";
import { createEmitter, createHttpInterface, runOperation, createServiceDb } from "./event_source.mjs";
import { dropPendingCalls, handleAnswer, createChannel } from "./channel.mjs";

/** @typedef {import("./error_report.mjs").StepCode} StepCode */

const { stringify, parse } = JSON;

/** What the run at hand has given us. */
const run = {
  /** @type {Record<string, string>} */ environment: {},
  /** @type {Record<string, string>} */ variables: {},
  folder: "",
  cwd: "/",
  /** @type {string | null} */ files: null,
  /** @type {Map<string, string>} */ texts: new Map(),
  loader: new ModuleLoader("/", trackChanges),
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
  run.loader = new ModuleLoader(told.folder, trackChanges, told.packages);
  dropPendingCalls();
  discardPreparedReset();
  installDeterminism(told.fixed);
}

/**
 * Make ready what can be made ready before a step's turn has come.
 *
 * @param {any} told
 */
function prepare(told) {
  resetProcessAhead(run.environment, run.cwd);
  for (const code of told.codes) run.loader.prepare(resolveCode(code));
}

/**
 * @param {any} told
 * @returns {StepCode}
 */
function resolveCode(told) {
  if (told.component) {
    const { path, fresh } = told.component;
    // Node.js keeps what it has loaded, so a later run would see an old version of a file of the user's own
    if (fresh) run.loader.ownFiles = true;
    return { name: told.step, file: pathToFileURL(path).href, source: "", offset: 0, folder: run.folder, root: findPackageRoot(path) };
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
  return step.root ? loadComponent(step, trackChanges) : run.loader.load(step);
}

/** @param {any} told */
async function runStep(told) {
  const step = resolveCode(told);
  const { workflow_id: workflow } = told.context;
  if (workflow) run.environment.PIPEDREAM_WORKFLOW_ID = String(workflow); // which actions read
  const { fault } = await runStepWork(step, run, async (mine) => {
    const component = await load(step);
    const voice = createChannel(mine);
    const given = { steps: createSteps(told.steps, run.texts), $: createStepApi(told.context, voice, told.flow, run.files) };
    const around = { voice, folder: run.cwd, db: createServiceDb(told.db, voice.db) };
    if (typeof component !== "function" && typeof component.run !== "function") throw new EntryPointError("The component has no run method.");
    if (told.context.test && !step.root) {
      const secrets = [told.auth, { variables: run.variables }].flatMap((by) => Object.values(by).flatMap(Object.values));
      const input = [stringify(told.props), ...told.steps.map(inputText)];
      frameLocals.start(step, input, secrets, Object.values(given));
    }
    const isFunction = typeof component === "function";
    if (typeof component.additionalProps === "function") told.added = await resolveAdditionalPropsForRun(component, told, around);
    const value = await (isFunction ? component(given) : component.run.call(new ComponentInstance(component, told, around).self, given));
    const text = encodeJson(value, "$return_value", voice.warn);
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
  const step = resolveCode(told);
  run.environment.PD_COMPONENT = told.id;
  const { fault, result } = await runStepWork(step, run, async (mine) => {
    const component = await load(step);
    const voice = createChannel(mine);
    const http = createHttpInterface(told.endpoint, createResponder(voice));
    const around = { voice, folder: run.cwd, db: createServiceDb(told.db, voice.db), http };
    if (typeof component.additionalProps === "function") told.added = await resolveAdditionalPropsForRun(component, told, around);
    const { self } = new ComponentInstance(component, told, around);
    Object.defineProperty(self, "$emit", { value: createEmitter(voice), enumerable: false });
    return runOperation(component, told.act, self, told.event);
  });
  return done(fault, result);
}

/**
 * An operation on a component that runs none of its work.
 *
 * @param {(component: any, told: any, around: import("./component_instance.mjs").ComponentContext) => any} question
 */
function componentQuery(question) {
  return async (/** @type {any} */ told) => {
    const step = resolveCode(told);
    const { fault, result } = await runStepWork(step, run, async (mine) => {
      const around = { voice: createChannel(mine), folder: run.cwd, db: createServiceDb({}, () => {}) };
      return question(await load(step), told, around);
    });
    return done(fault, result);
  };
}

/** @param {any} told */
async function evaluateAll(told) {
  resetProcess(run.environment, run.cwd);
  restartForStep("");
  const value = evaluateExpressions(told.expressions, told.steps, run);
  return { t: "done", error: null, value, busy: false, dirty: false, spoiled: false };
}

/**
 * The last line of a step.
 *
 * @param {any} fault
 * @param {any} [value]
 */
async function done(fault, value) {
  const { busy, spoiled } = await findLeftovers();
  return { t: "done", error: fault, value, busy, dirty: run.loader.ownFiles, spoiled };
}

/** @type {Record<string, (told: any) => Promise<any>>} */
const OPERATIONS = {
  run: runStep,
  source: runSource,
  describe: componentQuery(describeComponent),
  options: componentQuery(loadOptions),
  additional: componentQuery(resolveAdditionalProps),
  evaluate: evaluateAll,
};

/** @type {any} */
let pendingRequest = null;

/** @param {string} line */
function onLine(line) {
  if (pendingRequest === null) {
    pendingRequest = parse(line);
    if (pendingRequest.answer !== undefined) {
      const told = pendingRequest;
      pendingRequest = null;
      handleAnswer(told);
      return;
    }
    if (pendingRequest.begin) begin(pendingRequest.begin);
  } else {
    run.texts.set(pendingRequest.texts.shift(), line);
  }
  if (pendingRequest.texts.length) return;
  const told = pendingRequest;
  pendingRequest = null;
  if (told.op === "prepare") {
    prepare(told);
    return;
  }
  beginRequest(told.request);
  OPERATIONS[told.op](told).then((reply) => sendLine(stringify(reply)));
}

const defineComponent = (/** @type {any} */ component) => component;
Object.defineProperty(globalThis, "defineComponent", { value: defineComponent, writable: true, configurable: true });
void process.stdout;
void process.stderr;
recordBaseline();
process.on("unhandledRejection", handleLateError);
process.on("uncaughtException", handleLateError);
readLines(onLine);
recordIdleResources();
sendLine('{"t":"ready"}');
