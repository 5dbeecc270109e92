// @ts-check
/**
 * Runs the work of one step. An error from any part of its code fails the step. Code that still runs at its end is detected.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { subscribe } from "node:diagnostics_channel";
import { describeError } from "./error_report.mjs";
import { restartForStep } from "./determinism.mjs";
import { resetProcess } from "./process_reset.mjs";
import { flushBuffer, sendLine } from "./line_transport.mjs";
import { FrameLocals } from "./frame_locals.mjs";

/** @typedef {import("./error_report.mjs").StepCode} StepCode */

const GRACE_MS = 5;
/** The number of grace periods for threads, whose end takes longer. */
const THREAD_GRACES = 20;
const PERSISTENT_RESOURCES = new Set(
  ["Timeout", "ProcessWrap", "TCPSocketWrap", "TCPServerWrap", "TLSWrap", "PipeWrap", "UDPWrap"],
);
const { stringify } = JSON;
const { getActiveResourcesInfo } = process;
const later = setTimeout;
const soon = setImmediate;

const current = new AsyncLocalStorage();
export const frameLocals = new FrameLocals();

/** @type {{number: number, fail: (error: any) => void, step: StepCode} | null} */
let running = null;
let number = 0;
/** @type {Map<string, number>} */
let idle = new Map();
/** Threads that code has started and that run; `getActiveResourcesInfo` does not list threads. @type {Set<any>} */
const threads = new Set();

subscribe("worker_threads", (/** @type {any} */ { worker }) => {
  threads.add(worker);
  worker.once("exit", () => threads.delete(worker));
});

/**
 * Whether step number *mine* is running.
 *
 * @param {number} mine
 */
export function isRunning(mine) {
  return running?.number === mine;
}

/**
 * Run *work* for a step until it ends, or until any code of the step fails.
 *
 * @param {StepCode} step
 * @param {{environment: Record<string, string>, cwd: string}} run
 * @param {(mine: number) => Promise<any>} work receives the step's number
 */
export async function runStepWork(step, run, work) {
  const mine = ++number;
  /** @type {any} */
  let fault = null;
  /** @type {any} */
  let result;
  try {
    resetProcess(run.environment, run.cwd);
    restartForStep(step.name);
    result = await new Promise((resolve, reject) => {
      running = { number: mine, fail: reject, step };
      current.run(mine, () => work(mine)).then(resolve, reject);
    });
  } catch (error) {
    fault = describeError(error, step, (stack) => frameLocals.framesFor(stack));
  }
  frameLocals.stop(step, fault === null);
  running = null;
  return { fault, result };
}

/**
 * Handle an error that no code caught: it fails the running step, or is reported as an error of a step that has ended.
 *
 * @param {any} error
 */
export function handleLateError(error) {
  const of = current.getStore();
  if (running && (of === undefined || of === running.number)) running.fail(error);
  else sendLine(stringify({ t: "late", text: `A step failed after it had ended: ${String(error?.message ?? error)}` }));
}

/** Count the active resources that keep the process running, by kind. */
function countPersistentResources() {
  const counts = new Map();
  for (const kind of getActiveResourcesInfo.call(process)) {
    if (PERSISTENT_RESOURCES.has(kind)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return counts;
}

/** Record the current resources as those of the idle process. */
export function recordIdleResources() {
  idle = countPersistentResources();
}

/** Whether a thread runs that the process waits for (not after `unref`). */
function hasThreads() {
  return [...threads].some((thread) => {
    const handle = Object.getOwnPropertySymbols(thread).find((symbol) => symbol.description === "kHandle");
    return (handle && thread[handle]?.hasRef?.()) ?? true;
  });
}

function isBusy() {
  for (const [kind, count] of countPersistentResources()) if (count > (idle.get(kind) ?? 0)) return true;
  return hasThreads();
}

/** Whether the step left code running (after a short grace period), and whether it closed its output. */
export async function findLeftovers() {
  let busy = isBusy();
  if (busy || process.stdout.writableLength || process.stderr.writableLength) flushBuffer(); // code that still runs may end the process
  if (process.stdout.writableLength) await new Promise((resolve) => process.stdout.write("", resolve));
  if (process.stderr.writableLength) await new Promise((resolve) => process.stderr.write("", resolve));
  if (busy) {
    await new Promise((resolve) => soon(resolve));
    for (let left = hasThreads() ? THREAD_GRACES : 1; busy && left > 0; left -= 1) {
      await new Promise((resolve) => later(resolve, GRACE_MS));
      busy = isBusy();
    }
  }
  const spoiled = [process.stdout, process.stderr].some((stream) => stream.destroyed || stream.writableEnded);
  return { busy, spoiled };
}
