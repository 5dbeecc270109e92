// @ts-check
/**
 * Lines to and from the host.
 *
 * Requests come on descriptor 3. Replies go out on descriptor 4, written synchronously so that `process.exit` loses
 * nothing. Knows nothing of what a line says.
 */

import { writeSync } from "node:fs";
import { Socket } from "node:net";
import process from "node:process";

const IN = 3;
const OUT = 4;
const { exit } = process;

let held = "";
let request = 0;

/**
 * What is said from now on belongs to request *number*: each line begins with that.
 *
 * @param {number} number
 */
export function begin(number) {
  request = number;
}

/**
 * Say *line* together with the next one, for which the host then need not wake twice.
 *
 * @param {string} line
 */
export function bufferLine(line) {
  held += `${request} ${line}\n`;
}

/** Say what is held. */
export function flushBuffer() {
  if (held) write("");
}

/** @param {string} line */
export function sendLine(line) {
  write(`${request} ${line}\n`);
}

/** @param {string} text */
function write(text) {
  const data = Buffer.from(held + text);
  held = "";
  for (let at = 0; at < data.length; ) at += writeSync(OUT, data, at);
}

/**
 * Hear what the host says, until it goes away: then this process ends.
 *
 * @param {(line: string) => void} onLine
 */
export function readLines(onLine) {
  /** @type {Buffer[]} */
  let parts = [];
  const requests = new Socket({ fd: IN, readable: true, writable: false });
  requests.on("data", (/** @type {Buffer} */ data) => {
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
  });
  requests.on("close", () => exit.call(process, 0));
}
