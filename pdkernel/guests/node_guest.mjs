// @ts-check
/**
 * The Node.js guest: runs components, one step after another, and evaluates `{{ }}`.
 *
 * Run as `node --experimental-vm-modules --experimental-import-meta-resolve --no-warnings node_guest.mjs`. Requests
 * come as JSON lines on descriptor 3 and replies go out on descriptor 4, written synchronously so that
 * `process.exit` loses nothing; standard output and error are the step's. A request that names `texts` is followed by
 * one line of JSON for each: exports, kept as text and parsed by the step that reads them.
 *
 * parity[process-env]: on the platform `process.env` is undefined outside the component; here it is there for the module too.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { writeSync } from "node:fs";
import { Socket } from "node:net";
import process from "node:process";
import vm from "node:vm";
import { declarations, dollar, instance, stepsOf } from "./node_component.mjs";
import { describe, RefusedError } from "./node_errors.mjs";
import { encode } from "./node_exports.mjs";
import { adopt, freshen, watch } from "./node_fresh.mjs";
import { Loader } from "./node_loader.mjs";
import { Locals } from "./node_locals.mjs";

/** @typedef {import("./node_errors.mjs").StepCode} StepCode */

const IN = 3;
const OUT = 4;
const GRACE_MS = 5;
const LASTING = new Set(
  ["Timeout", "ProcessWrap", "TCPSocketWrap", "TCPServerWrap", "TLSWrap", "PipeWrap", "Worker", "UDPWrap"],
);
const { stringify, parse } = JSON;
const { getActiveResourcesInfo, exit } = process;
const later = setTimeout;
const soon = setImmediate;

const current = new AsyncLocalStorage();
const locals = new Locals();

/** What the run at hand has given us. */
const run = {
  /** @type {Record<string, string>} */ environment: {},
  /** @type {Record<string, string>} */ variables: {},
  folder: "",
  cwd: "/",
  /** @type {Map<string, string>} */ texts: new Map(),
  loader: new Loader("/", watch),
};
/** @type {Map<number, string>} */
const sources = new Map();
/** @type {Map<string, Function>} */
const expressions = new Map();
/** @type {{number: number, fail: (error: any) => void, step: StepCode} | null} */
let running = null;
let number = 0;
let asked = 0;
/** @type {Map<number, {resolve: (value: any) => void, reject: (error: any) => void, refused: RefusedError}>} */
const open = new Map();
/** @type {Map<string, number>} */
let idle = new Map();

/** @param {string} line */
function say(line) {
  const data = Buffer.from(line + "\n");
  for (let at = 0; at < data.length; ) at += writeSync(OUT, data, at);
}

/** @param {any} told */
function begin(told) {
  run.environment = { ...told.env, ...told.variables, ...told.outside };
  run.variables = told.variables;
  run.folder = told.folder;
  run.cwd = told.cwd;
  run.texts = new Map();
  run.loader = new Loader(told.folder, watch, told.packages);
  open.clear();
}

/**
 * @param {any} told
 * @returns {StepCode}
 */
function codeOf(told) {
  if (told.source !== undefined) sources.set(told.code, told.source);
  const source = /** @type {string} */ (sources.get(told.code));
  return { name: told.step, file: told.file, source, offset: told.offset, folder: run.folder };
}

/**
 * Run *work* for a step, to its end or its failure, whichever part of the code that comes from.
 *
 * @param {StepCode} step
 * @param {(mine: number) => Promise<any>} work
 */
async function attempt(step, work) {
  const mine = ++number;
  /** @type {any} */
  let fault = null;
  /** @type {any} */
  let result;
  try {
    freshen(run.environment, run.cwd);
    result = await new Promise((resolve, reject) => {
      running = { number: mine, fail: reject, step };
      current.run(mine, () => work(mine)).then(resolve, reject);
    });
  } catch (error) {
    fault = describe(error, step, locals);
  }
  locals.rest(step, fault === null);
  running = null;
  return { fault, result };
}

/**
 * Ask the host for something on behalf of a step.
 *
 * @param {number} mine the step's number
 * @param {string} call
 * @param {string} text the arguments as JSON
 * @returns {Promise<any>}
 */
function ask(mine, call, text) {
  if (running?.number !== mine) return Promise.reject(new Error(`The step has ended: it can ask for ${call} no more.`));
  const id = ++asked;
  say(`{"t":"ask","id":${id},"call":${stringify(call)},"args":${text}}`);
  const refused = new RefusedError();
  return new Promise((resolve, reject) => open.set(id, { resolve, reject, refused }));
}

/** @param {any} told */
function onAnswer(told) {
  const asker = open.get(told.answer);
  open.delete(told.answer);
  if (told.fault) asker?.reject(asker.refused.says(told.fault));
  else asker?.resolve(told.value);
}

/** @param {any} told */
async function runStep(told) {
  const step = codeOf(told);
  const { fault } = await attempt(step, async (mine) => {
    const component = await run.loader.load(step);
    const voice = {
      /** @param {string} line */
      tell(line) {
        if (running?.number === mine) say(line);
      },
      export: (/** @type {string} */ name, /** @type {string} */ text) =>
        voice.tell(`{"t":"export","n":${stringify(name)},"v":${text}}`),
      respond: (/** @type {string} */ text) => voice.tell(`{"t":"respond","r":${text}}`),
      exit: (/** @type {string | null} */ reason) => voice.tell(stringify({ t: "exit", reason })),
      warn: (/** @type {string} */ text) => voice.tell(stringify({ t: "warn", text })),
      effect: (/** @type {string} */ kind, /** @type {string} */ text) =>
        voice.tell(`{"t":"effect","kind":${stringify(kind)},"payload":${text}}`),
      pause: (/** @type {string} */ kind, /** @type {string} */ text) =>
        voice.tell(`{"t":"pause","kind":${stringify(kind)},${text.slice(1)}`),
      ask: (/** @type {string} */ call, /** @type {string} */ text) => ask(mine, call, text),
    };
    const given = { steps: stepsOf(told.steps, run.texts), $: dollar(told.context, voice, told.flow) };
    const secrets = [told.auth, { variables: run.variables }].flatMap((by) => Object.values(by).flatMap(Object.values));
    if (told.context.test) {
      const input = [stringify(told.props), ...told.steps.map(inputText)];
      locals.watch(step, input, secrets, Object.values(given));
    }
    const isFunction = typeof component === "function";
    const value = await (isFunction ? component(given) : component.run.call(instance(component, told, voice), given));
    const text = encode(value, "$return_value", voice.warn);
    if (text !== undefined) voice.export("$return_value", text);
  });
  return { t: "done", error: fault, ...(await leftBehind()) };
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
async function describeStep(told) {
  const step = codeOf(told);
  const { fault, result } = await attempt(step, async () => declarations(await run.loader.load(step)));
  return { t: "done", error: fault, value: result, ...(await leftBehind()) };
}

/** @param {any} told */
async function evaluate(told) {
  freshen(run.environment, run.cwd);
  const steps = stepsOf(told.steps, run.texts);
  const shim = { env: { ...run.variables } };
  const value = told.expressions.map((/** @type {string} */ source) => {
    try {
      let compiled = expressions.get(source);
      if (!compiled) {
        const options = { filename: "<expression>" };
        compiled = vm.compileFunction(`return (${source}\n)`, ["steps", "process", "event"], options);
        expressions.set(source, compiled);
      }
      const text = encode(compiled.call(undefined, steps, shim, steps.trigger?.event), source, () => {});
      return text === undefined ? { undefined: true } : { value: parse(text) };
    } catch (/** @type {any} */ error) {
      return { error: { name: String(error?.name ?? "Error"), message: String(error?.message ?? error) } };
    }
  });
  return { t: "done", error: null, value, busy: false, dirty: false, spoiled: false };
}

/** What keeps running, by kind. */
function lasting() {
  const counts = new Map();
  for (const kind of getActiveResourcesInfo.call(process)) {
    if (LASTING.has(kind)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

function isBusy() {
  for (const [kind, count] of lasting()) if (count > (idle.get(kind) ?? 0)) return true;
  return false;
}

/** Whether the step left something running, once what was about to end has ended. */
async function leftBehind() {
  if (process.stdout.writableLength) await new Promise((resolve) => process.stdout.write("", resolve));
  if (process.stderr.writableLength) await new Promise((resolve) => process.stderr.write("", resolve));
  let busy = isBusy();
  if (busy) {
    await new Promise((resolve) => soon(resolve));
    await new Promise((resolve) => later(resolve, GRACE_MS));
    busy = isBusy();
  }
  const spoiled = [process.stdout, process.stderr].some((stream) => stream.destroyed || stream.writableEnded);
  return { busy, dirty: run.loader.ownFiles, spoiled };
}

/** @param {any} error */
function onLateError(error) {
  const of = current.getStore();
  if (running && (of === undefined || of === running.number)) running.fail(error);
  else say(stringify({ t: "late", text: `A step failed after it had ended: ${String(error?.message ?? error)}` }));
}
process.on("unhandledRejection", onLateError);
process.on("uncaughtException", onLateError);

/** @type {Record<string, (told: any) => Promise<any>>} */
const OPERATIONS = { run: runStep, describe: describeStep, evaluate };

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
  OPERATIONS[told.op](told).then((reply) => say(stringify(reply)));
}

/** @type {Buffer[]} */
let parts = [];

/** @param {Buffer} data */
function onData(data) {
  for (let from = 0; from < data.length; ) {
    const end = data.indexOf(10, from);
    if (end < 0) {
      parts.push(data.subarray(from));
      return;
    }
    parts.push(data.subarray(from, end));
    const line = parts.length === 1 ? parts[0] : Buffer.concat(parts);
    parts = [];
    onLine(line.toString("utf8"));
    from = end + 1;
  }
}

const defineComponent = (/** @type {any} */ component) => component;
Object.defineProperty(globalThis, "defineComponent", { value: defineComponent, writable: true, configurable: true });
void process.stdout;
void process.stderr;
adopt();
const requests = new Socket({ fd: IN, readable: true, writable: false });
requests.on("data", onData);
requests.on("close", () => exit.call(process, 0));
idle = lasting();
say('{"t":"ready"}');
