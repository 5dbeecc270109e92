// @ts-check
/**
 * What a running step says to the host and asks of it.
 *
 * Knows the lines. A step that has ended says nothing more, and gets no answers.
 */

import { CallRefusedError } from "./error_report.mjs";
import { bufferLine, sendLine } from "./line_transport.mjs";
import { isRunning } from "./step_runner.mjs";

const { stringify } = JSON;

let asked = 0;
/** @type {Map<number, {resolve: (value: any) => void, reject: (error: any) => void, refused: CallRefusedError}>} */
const open = new Map();

/** Wait for no answers of a run that is over. */
export function dropPendingCalls() {
  open.clear();
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
  if (!isRunning(mine)) return Promise.reject(new Error(`The step has ended: it can ask for ${call} no more.`));
  const id = ++asked;
  sendLine(`{"t":"ask","id":${id},"call":${stringify(call)},"args":${text}}`);
  const refused = new CallRefusedError();
  return new Promise((resolve, reject) => open.set(id, { resolve, reject, refused }));
}

/** @param {any} told */
export function handleAnswer(told) {
  const asker = open.get(told.answer);
  open.delete(told.answer);
  if (told.fault) asker?.reject(asker.refused.withFault(told.fault));
  else asker?.resolve(told.value);
}

/** The line of the cell that called, or null: where the stack first names a step's code. */
function lineOfStep() {
  return /<step [^>]*>:(\d+)/.exec(String(new Error().stack))?.[1] ?? null;
}

/**
 * What a step says to the host, for as long as it runs.
 *
 * @param {number} mine the step's number
 * @returns {import("./step_api.mjs").StepChannel & {db: (key: string, text: string | undefined) => void, returned: (text: string) => void}}
 */
export function createChannel(mine) {
  const tell = (/** @type {string} */ line) => {
    if (isRunning(mine)) sendLine(line);
  };
  return {
    export: (name, text) => tell(`{"t":"export","n":${stringify(name)},"v":${text}}`),
    returned: (text) => {
      if (isRunning(mine)) bufferLine(`{"t":"export","n":"$return_value","v":${text}}`);
    },
    respond: (text) => tell(`{"t":"respond","r":${text}}`),
    exit: (reason) => tell(stringify({ t: "exit", reason })),
    warn: (text) => tell(stringify({ t: "warn", text })),
    effect: (kind, text) => tell(`{"t":"effect","kind":${stringify(kind)},"line":${lineOfStep()},"payload":${text}}`),
    pause: (kind, text) => tell(`{"t":"pause","kind":${stringify(kind)},${text.slice(1)}`),
    emit: (text) => tell(`{"t":"emitted",${text.slice(1)}`),
    db: (key, text) => tell(`{"t":"db","key":${stringify(key)}${text === undefined ? "" : `,"value":${text}`}}`),
    ask: (call, text) => ask(mine, call, text),
  };
}
