// @ts-check
/**
 * A fixed clock and fixed chance for this process: two runs that do the same see the same.
 *
 * Knows `Date`, `Math.random` and what `crypto` draws. It is put in place before any package is loaded, if the host asks for it,
 * and stays for as long as the process lives. The time stands still and leaps ahead every `LEAP_MS`, so that code which
 * waits for it comes to an end; `performance.now` and timers go on. Not fixed: TLS, and programs that a step starts.
 */

import crypto from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { trackChanges } from "./process_reset.mjs";

const LEAP_MS = 10_000;

const RealDate = Date;
const { createHash } = crypto;
const elapsed = performance.now.bind(performance);

/** @type {{ms: number, seed: string} | null} */
let fixed = null;
let began = 0;
let state = 0;

/**
 * Fix the clock at *ms* (milliseconds since 1970) and chance by *seed*, for good.
 *
 * @param {{ms: number, seed: string} | null | undefined} told
 */
export function installDeterminism(told) {
  if (!told) return;
  const first = fixed === null;
  fixed = told;
  if (first) {
    const keep = trackChanges(); // what is put in place now is how every step finds the process
    fixTime();
    fixChance();
    keep();
  }
  restartForStep("");
}

/**
 * A step begins: what it sees does not depend on what ran before it.
 *
 * @param {string} step
 */
export function restartForStep(step) {
  if (fixed === null) return;
  began = elapsed();
  state = createHash("sha256").update(`${fixed.seed}/${step}`).digest().readUInt32LE();
}

function now() {
  return /** @type {any} */ (fixed).ms + Math.floor((elapsed() - began) / LEAP_MS) * LEAP_MS;
}

/** A number of 32 bits (mulberry32, in the public domain). */
function draw() {
  state = (state + 0x6d2b79f5) | 0;
  let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
  return (mixed ^ (mixed >>> 14)) >>> 0;
}

function fixTime() {
  const fake = new Proxy(RealDate, {
    construct: (target, args, made) => Reflect.construct(target, args.length ? args : [now()], made === fake ? target : made),
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
