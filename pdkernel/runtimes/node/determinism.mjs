// @ts-check
/**
 * A fixed clock and fixed random numbers for this process, so that two equal runs get equal values.
 *
 * It replaces `Date`, `Math.random` and the random functions of `crypto` before any package is loaded, for the life of the
 * process. The clock advances in steps of `CLOCK_STEP_MS` of real time, so that code that waits for a later time ends.
 * `performance.now` and timers are not changed. TLS, and programs that a step starts, are not fixed.
 */

import { createRequire, syncBuiltinESMExports } from "node:module";
import { trackChanges } from "./process_reset.mjs";

const CLOCK_STEP_MS = 10_000;

const RealDate = Date;
const elapsed = performance.now.bind(performance);

/** @type {{ms: number, seed: string} | null} */
let fixed = null;
/** @type {typeof import("node:crypto")} loaded only if it is needed */
let crypto;
/** @type {typeof import("node:crypto").createHash} */
let createHash;
let began = 0;
let state = 0;

/**
 * Fix the clock at *ms* (milliseconds since 1970), and the random numbers with *seed*, for the life of the process.
 *
 * @param {{ms: number, seed: string} | null | undefined} settings
 */
export function installDeterminism(settings) {
  if (!settings) return;
  const first = fixed === null;
  fixed = settings;
  if (first) {
    crypto = createRequire(import.meta.url)("node:crypto");
    createHash = crypto.createHash;
    const keep = trackChanges(); // every later reset keeps these replacements
    fixTime();
    fixChance();
    keep();
  }
  restartForStep("");
}

/**
 * Reset clock and random numbers for a step, so that they do not depend on earlier steps.
 *
 * @param {string} step
 */
export function restartForStep(step) {
  if (fixed === null) return;
  began = elapsed();
  state = createHash("sha256").update(`${fixed.seed}/${step}`).digest().readUInt32LE();
}

function now() {
  return /** @type {any} */ (fixed).ms + Math.floor((elapsed() - began) / CLOCK_STEP_MS) * CLOCK_STEP_MS;
}

/** Return the next pseudo-random number of 32 bits (mulberry32, in the public domain). */
function draw() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return (mixed ^ (mixed >>> 14)) >>> 0;
}

function fixTime() {
  const fake = new Proxy(RealDate, {
    construct: (target, args, newTarget) => Reflect.construct(target, args.length ? args : [now()], newTarget === fake ? target : newTarget),
    apply: () => new RealDate(now()).toString(),
    get: (target, key) => (key === "now" ? now : Reflect.get(target, key)),
  });
  RealDate.prototype.constructor = fake;
  globalThis.Date = fake;
}

function fixChance() {
  Math.random = () => draw() / 4294967296;
  const fill = (/** @type {any} */ target, offset = 0, size = target.byteLength - offset) => {
    const bytes = new Uint8Array(target.buffer ?? target, target.byteOffset ?? 0, target.byteLength);
    for (let at = offset; at < offset + size; at += 1) bytes[at] = draw() & 255;
    return target;
  };
  const later = (/** @type {any} */ call, /** @type {any} */ value) => (call ? void setImmediate(call, null, value) : value);
  const withCall = (/** @type {any[]} */ args) => [args.filter((each) => typeof each !== "function"), args.find((each) => typeof each === "function")];
  const uuid = () => {
    const bytes = fill(Buffer.alloc(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
  };
  const own = {
    randomUUID: uuid,
    randomBytes: (/** @type {number} */ size, /** @type {any} */ call) => later(call, fill(Buffer.alloc(size))),
    randomFillSync: fill,
    randomFill: (/** @type {any[]} */ ...args) => {
      const [[target, ...rest], call] = withCall(args);
      later(call, fill(target, ...rest));
    },
    randomInt: (/** @type {any[]} */ ...args) => {
      const [numbers, call] = withCall(args);
      const [low, high] = numbers.length > 1 ? numbers : [0, numbers[0]];
      return later(call, low + Math.floor((draw() / 4294967296) * (high - low)));
    },
  };
  const web = { randomUUID: uuid, getRandomValues: (/** @type {any} */ target) => fill(target) };
  Object.assign(Object.getPrototypeOf(crypto.webcrypto), web);
  Object.assign(crypto, own);
  syncBuiltinESMExports();
}
