// @ts-check
/**
 * Runs the work of one step. An error from any part of its code fails the step. Code that still runs at its end is detected.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { describeError } from "./error_report.mjs";
import { restartForStep } from "./determinism.mjs";
import { resetProcess } from "./process_reset.mjs";
import { flushBuffer, sendLine } from "./line_transport.mjs";
import { FrameLocals } from "./frame_locals.mjs";

/** @typedef {import("./error_report.mjs").StepCode} StepCode */

const GRACE_MS = 5;
const PERSISTENT_RESOURCES = new Set(
  ["Timeout", "ProcessWrap", "TCPSocketWrap", "TCPServerWrap", "TLSWrap", "PipeWrap", "Worker", "UDPWrap"],
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

function isBusy() {
  for (const [kind, count] of countPersistentResources()) if (count > (idle.get(kind) ?? 0)) return true;
  return false;
}

/** Whether the step left code running (after a short grace period), and whether it closed its output. */
export async function findLeftovers() {
  let busy = isBusy();
  if (busy || process.stdout.writableLength || process.stderr.writableLength) flushBuffer(); // code that still runs may end the process
  if (process.stdout.writableLength) await new Promise((resolve) => process.stdout.write("", resolve));
  if (process.stderr.writableLength) await new Promise((resolve) => process.stderr.write("", resolve));
  if (busy) {
    await new Promise((resolve) => soon(resolve));
    await new Promise((resolve) => later(resolve, GRACE_MS));
    busy = isBusy();
  }
  const spoiled = [process.stdout, process.stderr].some((stream) => stream.destroyed || stream.writableEnded);
  return { busy, spoiled };
}
