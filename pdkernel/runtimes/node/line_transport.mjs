// @ts-check
/**
 * Reads requests from pdkernel and writes replies, one line each.
 *
 * Requests arrive on descriptor 3. Replies are written to descriptor 4, synchronously, so that `process.exit` loses no line.
 */

import { writeSync } from "node:fs";
import { Socket } from "node:net";

const IN = 3;
const OUT = 4;
const { exit } = process;

let buffered = "";
let request = 0;

/**
 * Begin request *number*: each later line begins with this number.
 *
 * @param {number} number
 */
export function begin(number) {
  request = number;
}

/**
 * Buffer *line* until the next line is sent, so that pdkernel wakes up once for both.
 *
 * @param {string} line
 */
export function bufferLine(line) {
  buffered += `${request} ${line}\n`;
}

/** Write the buffered line. */
export function flushBuffer() {
  if (buffered) write("");
}

/**
 * Send *line* after the buffered line.
 *
 * @param {string} line
 */
export function sendLine(line) {
  write(`${request} ${line}\n`);
}

/** @param {string} text */
function write(text) {
  const data = Buffer.from(buffered + text);
  buffered = "";
  for (let at = 0; at < data.length; ) at += writeSync(OUT, data, at);
}

/**
 * Read lines until pdkernel closes the pipe, then exit.
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
