// @ts-check
/**
 * The program of a Node.js worker: runs components, one step after another, and evaluates `{{ }}`.
 *
 * `start.mjs` runs it, in `node --experimental-vm-modules --experimental-import-meta-resolve --no-warnings`. Requests are JSON lines;
 * standard output and standard error belong to the step. A request with `texts`, a list of step names, is followed by a line of
 * JSON for each name: the step's exports, which are parsed when a step reads them. `steps` are those that a step sees; without it, it
 * sees all that have arrived. `begin` has the settings of a new run that differ from those of the last run. If its `fixed` is `{ms, seed}`, not null, clock and random numbers are fixed for the life of
 * the process (`determinism.mjs`).
 *
 * parity[process-env]: on the platform `process.env` is undefined outside of the component; in pdkernel the whole module has it.
 */

import { pathToFileURL } from "node:url";
import { describeComponent, ComponentInstance } from "./component_instance.mjs";
import { loadComponent, findPackageRoot } from "./component_file.mjs";
import { resolveAdditionalPropsForRun, resolveAdditionalProps, loadOptions } from "./prop_options.mjs";
import { createStepApi, createResponder, createSteps } from "./step_api.mjs";
import { EntryPointError } from "./error_report.mjs";
import { encodeJson } from "./export_encoding.mjs";
import { hasFiles, parseWithFiles } from "./file_store.mjs";
import { evaluateExpressions } from "./expressions.mjs";
import { installDeterminism, restartForStep } from "./determinism.mjs";
import { recordBaseline, resetProcess, resetProcessAhead, discardPreparedReset, expectSource, trackChanges } from "./process_reset.mjs";
import { begin as beginRequest, readLines, sendLine } from "./line_transport.mjs";
import { ModuleLoader } from "./module_loader.mjs";
import { runStepWork, findLeftovers, frameLocals, handleLateError, recordIdleResources } from "./step_runner.mjs";
import { createEmitter, createHttpInterface, runOperation, createServiceDb } from "./event_source.mjs";
import { dropPendingCalls, handleAnswer, createChannel } from "./channel.mjs";

/** @typedef {import("./error_report.mjs").StepCode} StepCode */

const { stringify, parse } = JSON;

/** The settings of the current run. */
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

/** @type {any} */
let settings = {};

/**
 * Store the settings of a new run, and discard the state of the last run.
 *
 * @param {any} changes the settings that differ from those of the last run
 */
function begin(changes) {
  const setup = (settings = { ...settings, ...changes });
  run.environment = { __proto__: null, ...setup.env, ...setup.variables, ...setup.gateway };
  run.variables = setup.variables;
  run.folder = setup.folder;
  run.cwd = setup.cwd;
  run.files = setup.files;
  run.texts = new Map();
  run.loader = new ModuleLoader(setup.folder, trackChanges, setup.packages);
  dropPendingCalls();
  discardPreparedReset();
  installDeterminism(setup.fixed);
}

/**
 * Compile steps and reset the process ahead of time; no user code runs.
 *
 * @param {any} request
 */
function prepare(request) {
  resetProcessAhead(run.environment, run.cwd);
  for (const code of request.codes) run.loader.prepare(resolveCode(code));
}

/**
 * Return the code that a request is about: a file's component, or a source that this or an earlier request sent.
 *
 * @param {any} request
 * @returns {StepCode}
 */
function resolveCode(request) {
  if (request.component) {
    const { path, fresh } = request.component;
    // Node.js caches loaded modules, so a later run would see an old version of a user's file
    if (fresh) run.loader.ownFiles = true;
    return { name: request.step, file: pathToFileURL(path).href, source: "", offset: 0, folder: run.folder, root: findPackageRoot(path) };
  }
  if (request.source !== undefined) sources.set(request.code, request.source);
  const source = /** @type {string} */ (sources.get(request.code));
  return { name: request.step, file: request.file, source, offset: request.offset, folder: run.folder, files: request.files };
}

/**
 * @param {StepCode} step
 * @returns {Promise<any>} the component
 */
function load(step) {
  expectSource(step.source);
  return step.root ? loadComponent(step, trackChanges) : run.loader.load(step);
}

/**
 * Run a step.
 *
 * @param {any} request
 */
async function runStep(request) {
  const step = resolveCode(request);
  const { workflow_id: workflow } = request.context;
  if (workflow) run.environment.PIPEDREAM_WORKFLOW_ID = String(workflow); // actions read it
  const { fault } = await runStepWork(step, run, async (mine) => {
    const component = await load(step);
    const channel = createChannel(mine);
    if (request.hasFiles) request.props = parseWithFiles(stringify(request.props), run.files);
    const services = { steps: createSteps(request.steps, run.texts, run.files), $: createStepApi(request.context, channel, request.flow, run.files) };
    const around = { channel, folder: run.cwd, db: createServiceDb(request.db, channel.db) };
    if (typeof component !== "function" && typeof component.run !== "function") throw new EntryPointError("The component has no run method.");
    if (request.context.test && !step.root) {
      const secrets = [request.auth, { variables: run.variables }].flatMap((by) => Object.values(by).flatMap(Object.values));
      const input = [stringify(request.props), ...request.steps.map(inputText)];
      frameLocals.start(step, input, secrets, Object.values(services));
    }
    const isFunction = typeof component === "function";
    if (typeof component.additionalProps === "function") request.added = await resolveAdditionalPropsForRun(component, request, around);
    const value = await (isFunction ? component(services) : component.run.call(new ComponentInstance(component, request, around).self, services));
    const text = encodeJson(value, "$return_value", channel.warn);
    if (text !== undefined) channel.returned(text);
  });
  return done(fault);
}

/**
 * The exports of step *name* as text, without the context, which differs in every run.
 *
 * @param {string} name
 */
function inputText(name) {
  const text = run.texts.get(name) ?? "";
  return name === "trigger" ? text.slice(0, text.lastIndexOf('"context":')) : text;
}

/**
 * Run an event source or one of its hooks.
 *
 * @param {any} request
 */
async function runSource(request) {
  const step = resolveCode(request);
  run.environment.PD_COMPONENT = request.id;
  const { fault, result } = await runStepWork(step, run, async (mine) => {
    const component = await load(step);
    const channel = createChannel(mine);
    const http = createHttpInterface(request.endpoint, createResponder(channel));
    const around = { channel, folder: run.cwd, db: createServiceDb(request.db, channel.db), http };
    if (typeof component.additionalProps === "function") request.added = await resolveAdditionalPropsForRun(component, request, around);
    const { self } = new ComponentInstance(component, request, around);
    Object.defineProperty(self, "$emit", { value: createEmitter(channel), enumerable: false });
    return runOperation(component, request.act, self, request.event);
  });
  return done(fault, result);
}

/**
 * Return the handler of a request that asks about a component without running it.
 *
 * @param {(component: any, request: any, around: import("./component_instance.mjs").ComponentContext) => any} question
 */
function componentQuery(question) {
  return async (/** @type {any} */ request) => {
    const step = resolveCode(request);
    const { fault, result } = await runStepWork(step, run, async (mine) => {
      const around = { channel: createChannel(mine), folder: run.cwd, db: createServiceDb({}, () => {}) };
      return question(await load(step), request, around);
    });
    return done(fault, result);
  };
}

/**
 * Evaluate the expressions of a request.
 *
 * @param {any} request
 */
async function evaluateAll(request) {
  resetProcess(run.environment, run.cwd);
  restartForStep("");
  const value = evaluateExpressions(request.expressions, request.steps, run);
  return { t: "done", error: null, value, busy: false, dirty: false, spoiled: false };
}

/**
 * Build the last reply to a request.
 *
 * @param {any} fault
 * @param {any} [value]
 */
async function done(fault, value) {
  const { busy, spoiled } = await findLeftovers();
  return { t: "done", error: fault, value, busy, dirty: run.loader.ownFiles, spoiled };
}

/** @type {Record<string, (request: any) => Promise<any>>} */
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

/**
 * Handle a line from pdkernel: a request, the exports that follow it, or the answer to a service call.
 *
 * @param {string} line
 */
function onLine(line) {
  if (pendingRequest === null) {
    pendingRequest = parse(line);
    pendingRequest.hasFiles = hasFiles(line);
    if (pendingRequest.answer !== undefined) {
      const request = pendingRequest;
      pendingRequest = null;
      handleAnswer(request);
      return;
    }
    if (pendingRequest.begin) begin(pendingRequest.begin);
  } else {
    run.texts.set(pendingRequest.texts.shift(), line);
  }
  if (pendingRequest.texts.length) return;
  const request = pendingRequest;
  pendingRequest = null;
  if (request.op === "prepare") {
    prepare(request);
    return;
  }
  request.steps ??= [...run.texts.keys()];
  beginRequest(request.request);
  OPERATIONS[request.op](request).then((reply) => sendLine(stringify(reply)));
}

const defineComponent = (/** @type {any} */ component) => component;
Object.defineProperty(globalThis, "defineComponent", { value: defineComponent, writable: true, configurable: true });
void process.stdout;
void process.stderr;
process.on("unhandledRejection", handleLateError);
process.on("uncaughtException", handleLateError);
recordBaseline();
readLines(onLine);
recordIdleResources();
sendLine('{"t":"ready"}');
