// @ts-check
/**
 * Reads the local variables of a step's frames when an error is thrown, as text.
 *
 * It uses V8's debugger protocol in this process: the debugger stops at a throw, reads the scopes of the frames in the step's
 * file, and continues. Enabling the debugger takes about 7 ms (it lists every script), so the debugger is enabled once, and not
 * for code that ran without an error on the same input. Enabled, it makes each `await` about 0.5 µs slower. Values of known
 * secrets are replaced. A shortened local variable ends with `…`, and no part of a secret is before the `…`. The recorder of the
 * run redacts encoded forms of a secret, and their parts before a `…`.
 */

import { createRequire } from "node:module";
import { inspect } from "node:util";

const require = createRequire(import.meta.url); // loads at the first use: most processes need neither crypto nor inspector

const MAX_TEXT_LENGTH = 200;
const SHORTENED = "…";
/** The suffix that `inspect` adds to a shortened text; the text before the suffix may end with a part of a secret. */
const CUT = /["'`]?\.{3} \d+ more characters?[^]*$/;
const MAX_LOCALS = 20;
const MAX_FRAMES = 5;
/** Maximum number of throws that are inspected in one step, so that code that throws often stays fast. */
const MAX_PAUSES = 50;
const MAX_ERRORS = 8;
/** Maximum number of scripts of steps whose names are stored; each run of a step is a new script. */
const MAX_SCRIPTS = 500;
const SCOPES = new Set(["local", "block", "catch", "with"]);
const LOCALS_READER = Symbol.for("pdkernel.locals");

/** @typedef {import("./error_report.mjs").Frame} Frame */

/** Watches for throws while a step runs. */
export class FrameLocals {
  constructor() {
    /** @type {import("node:inspector").Session | null} */
    this.opened = null;
    /** @type {string | null} */
    this.file = null;
    /** @type {string[]} */
    this.secrets = [];
    /** @type {WeakSet<object>} */
    this.hidden = new WeakSet();
    this.left = 0;
    this.input = "";
    /** @type {Map<string, string>} source to the input on which it succeeded */
    this.known = new Map();
    /** @type {Map<string, string>} */
    this.scripts = new Map();
    /** @type {Map<string, Frame[]>} by V8's stack text of the error */
    this.seen = new Map();
    const read = (/** @type {any} */ scope) => this.read(scope);
    Object.defineProperty(globalThis, LOCALS_READER, { value: read, enumerable: false, configurable: false, writable: false });
  }

  /** The connection to the debugger, which the first use enables. */
  get session() {
    if (this.opened === null) {
      const { Session } = /** @type {typeof import("node:inspector")} */ (require("node:inspector"));
      this.opened = new Session();
      this.opened.connect();
      this.opened.on("Debugger.paused", ({ params }) => this.paused(params));
      // a frame has only the number of a script whose name is not a URL
      this.opened.on("Debugger.scriptParsed", ({ params }) => {
        if (!params.url.startsWith("<step ")) return;
        this.scripts.set(params.scriptId, params.url);
        if (this.scripts.size > MAX_SCRIPTS) this.scripts.delete(/** @type {string} */ (this.scripts.keys().next().value));
      });
      this.opened.post("Debugger.enable");
    }
    return this.opened;
  }

  /**
   * Watch for throws from now on, unless the code succeeded on the same input before.
   *
   * @param {import("./error_report.mjs").StepCode} step
   * @param {Iterable<string>} input the complete input of the step as text
   * @param {string[]} secrets values to replace
   * @param {object[]} hidden objects of the runtime: `steps`, `$`
   */
  start(step, input, secrets, hidden) {
    const hash = /** @type {typeof import("node:crypto")} */ (require("node:crypto")).createHash("sha1");
    for (const text of input) hash.update(text);
    this.input = hash.digest("base64");
    this.seen.clear();
    if (this.known.get(step.source) === this.input) return;
    this.file = step.file;
    this.secrets = secrets.filter((secret) => secret.length >= 4).sort((a, b) => b.length - a.length);
    this.hidden = new WeakSet(hidden);
    this.left = MAX_PAUSES;
    this.session.post("Debugger.setPauseOnExceptions", { state: "all" });
  }

  /**
   * Stop watching, because the step has ended. The frames stay available until the next step.
   *
   * @param {import("./error_report.mjs").StepCode} step
   * @param {boolean} succeeded
   */
  stop(step, succeeded) {
    if (succeeded && this.input) this.known.set(step.source, this.input);
    else this.known.delete(step.source);
    if (this.file !== null) this.session.post("Debugger.setPauseOnExceptions", { state: "none" });
    this.file = null;
    this.input = "";
  }

  /**
   * Return the frames of an error with their local variables.
   *
   * @param {string} stack the stack of the error, as V8 wrote it
   * @returns {Frame[]} the frames in the step's file, innermost first
   */
  framesFor(stack) {
    return this.seen.get(stack) ?? [];
  }

  /**
   * Read the frames at a throw.
   *
   * @param {any} params
   */
  paused(params) {
    const file = this.file;
    const stack = params.data?.description;
    if (file !== null && typeof stack === "string" && !this.seen.has(stack)) {
      const ofStep = (/** @type {any} */ frame) => this.scripts.get(frame.location.scriptId) === file;
      const frames = params.callFrames.filter(ofStep).slice(0, MAX_FRAMES);
      if (frames.length) {
        this.seen.set(stack, frames.map((/** @type {any} */ frame) => this.frame(frame)));
        if (this.seen.size > MAX_ERRORS) this.seen.delete(/** @type {string} */ (this.seen.keys().next().value));
      }
    }
    if (--this.left === 0) this.session.post("Debugger.setPauseOnExceptions", { state: "none" });
  }

  /**
   * Read the local variables of a frame.
   *
   * @param {any} frame
   * @returns {Frame}
   */
  frame(frame) {
    /** @type {Map<string, string>} */
    const locals = new Map();
    for (const scope of frame.scopeChain) {
      if (!SCOPES.has(scope.type)) break;
      for (const [name, text] of this.scope(scope.object.objectId)) {
        if (!locals.has(name) && locals.size < MAX_LOCALS) locals.set(name, text);
      }
    }
    return { line: frame.location.lineNumber + 1, column: frame.location.columnNumber + 1, locals: [...locals] };
  }

  /**
   * Read the variables of a scope through the debugger.
   *
   * @param {string} objectId
   * @returns {[string, string][]} name and text of each
   */
  scope(objectId) {
    /** @type {[string, string][]} */
    let found = [];
    const functionDeclaration = 'function () { return globalThis[Symbol.for("pdkernel.locals")](this); }';
    const ask = { objectId, functionDeclaration, returnByValue: true, silent: true };
    this.session.post("Runtime.callFunctionOn", ask, (error, answer) => {
      const value = /** @type {any} */ (answer)?.result?.value;
      if (!error && Array.isArray(value)) found = value;
    });
    return found;
  }

  /**
   * Convert the variables of a scope to text; called by the debugger in the scope's context.
   *
   * @param {any} scope an object with the variables as properties
   * @returns {[string, string][]}
   */
  read(scope) {
    /** @type {[string, string][]} */
    const found = [];
    for (const name of Object.keys(scope)) {
      try {
        const value = scope[name];
        const kind = typeof value;
        if (kind === "function" || value === undefined || (value !== null && kind === "object" && this.hidden.has(value))) continue;
        found.push([name, this.text(value)]);
      } catch {
        // a variable before its declaration, or an object that cannot be inspected
      }
    }
    return found;
  }

  /**
   * Return *value* as text, redacted and shortened.
   *
   * @param {any} value
   */
  text(value) {
    let text = inspect(value, { depth: 3, breakLength: Infinity, maxArrayLength: 20, maxStringLength: 20_000 });
    for (const secret of this.secrets) text = text.replaceAll(secret, "***");
    const shown = text.replace(CUT, "").slice(0, MAX_TEXT_LENGTH);
    return shown === text ? text : shown.slice(0, shown.length - partOfSecret(shown, this.secrets)) + SHORTENED;
  }
}

/**
 * Count the characters at the end of *text* that are the beginning of a secret.
 *
 * @param {string} text
 * @param {string[]} secrets
 * @returns {number}
 */
function partOfSecret(text, secrets) {
  let longest = 0;
  for (const secret of secrets) {
    for (let length = Math.min(secret.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(secret.slice(0, length))) longest = length;
    }
  }
  return longest;
}
