// @ts-check
/**
 * The channel from a running step to pdkernel: messages, and service calls with their answers.
 *
 * After the step has ended, messages are dropped and calls are rejected.
 */

import { CallRefusedError } from "./error_report.mjs";
import { bufferLine, sendLine } from "./line_transport.mjs";
import { isRunning } from "./step_runner.mjs";

const { stringify } = JSON;

let lastCallId = 0;
/** @type {Map<number, {resolve: (value: any) => void, reject: (error: any) => void, refused: CallRefusedError}>} */
const pendingCalls = new Map();

/** Discard the pending calls of a run that has ended. */
export function dropPendingCalls() {
  pendingCalls.clear();
}

/**
 * Call a service of pdkernel for a step.
 *
 * @param {number} mine the step's number
 * @param {string} call
 * @param {string} text the arguments as JSON
 * @returns {Promise<any>}
 */
function ask(mine, call, text) {
  if (!isRunning(mine)) return Promise.reject(new Error(`The step has ended, so it cannot call ${call}.`));
  const id = ++lastCallId;
  sendLine(`{"t":"ask","id":${id},"call":${stringify(call)},"args":${text}}`);
  const refused = new CallRefusedError();
  return new Promise((resolve, reject) => pendingCalls.set(id, { resolve, reject, refused }));
}

/**
 * Resolve or reject the pending call that *answer* belongs to.
 *
 * @param {any} answer
 */
export function handleAnswer(answer) {
  const call = pendingCalls.get(answer.answer);
  pendingCalls.delete(answer.answer);
  if (answer.fault) call?.reject(call.refused.withFault(answer.fault));
  else call?.resolve(answer.value);
}

/** The line of the cell that makes this call: the first stack frame in the step's code; or null. */
function lineOfStep() {
  return /<step [^>]*>:(\d+)/.exec(String(new Error().stack))?.[1] ?? null;
}

/**
 * Create the channel of a step, which sends messages while the step runs.
 *
 * @param {number} mine the step's number
 * @returns {import("./step_api.mjs").StepChannel & {db: (key: string, text: string | undefined) => void, returned: (text: string) => void}}
 */
export function createChannel(mine) {
  const send = (/** @type {string} */ line) => {
    if (isRunning(mine)) sendLine(line);
  };
  return {
    export: (name, text) => send(`{"t":"export","n":${stringify(name)},"v":${text}}`),
    returned: (text) => {
      if (isRunning(mine)) bufferLine(`{"t":"export","n":"$return_value","v":${text}}`);
    },
    respond: (text) => send(`{"t":"respond","r":${text}}`),
    exit: (reason) => send(stringify({ t: "exit", reason })),
    warn: (text) => send(stringify({ t: "warn", text })),
    effect: (kind, text) => send(`{"t":"effect","kind":${stringify(kind)},"line":${lineOfStep()},"payload":${text}}`),
    pause: (kind, text) => send(`{"t":"pause","kind":${stringify(kind)},${text.slice(1)}`),
    emit: (text) => send(`{"t":"emitted",${text.slice(1)}`),
    db: (key, text) => send(`{"t":"db","key":${stringify(key)}${text === undefined ? "" : `,"value":${text}`}}`),
    ask: (call, text) => ask(mine, call, text),
  };
}
