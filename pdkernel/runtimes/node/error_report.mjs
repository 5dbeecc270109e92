// @ts-check
/**
 * Describes an error of a Node.js step: the frames of user code with source lines, parsed from V8's stack text.
 *
 * Any thrown value is supported, such as a string, or an error without a stack.
 */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SYNTAX_ERROR_FILE } from "./imported_files.mjs";

const MAX_FRAMES = 15;
/** The folder of the package that a file belongs to; the group is the package's name. */
const PACKAGE_FOLDER = /^.*[/\\]node_modules[/\\](@[^/\\]+[/\\][^/\\]+|[^/\\]+)/;
const RUNTIME_FOLDER_URL = new URL(".", import.meta.url).href;
/** The URL of the built-in actions. Their errors are about props, so their frames are hidden. */
const BUILT_IN = new URL("../../actions/builtin/", import.meta.url).href;
const NOT_BOTH = "A step with import or export cannot use require, module or exports. Write `import name from \"package\"`.";
/** @type {Record<string, string>} */
const FIXES = { "require is not defined": NOT_BOTH, "module is not defined": NOT_BOTH, "exports is not defined": NOT_BOTH };

/**
 * @typedef {object} StepCode
 * @property {string} name
 * @property {string} file the name of the code in stack frames
 * @property {string} source
 * @property {number} offset lines of the cell above the source
 * @property {string} folder of the project
 * @property {Record<string, string>} [files] that the step imports, by path
 * @property {string} [root] for a component in a file: the root folder of its package; its lines are not lines of the cell
 * @typedef {object} Fault
 * @property {string} code
 * @property {string} name
 * @property {string} message
 * @property {number | null} line in the step's cell
 * @property {string | null} stack
 * @property {string} fix
 * @property {string} [prop] the prop that caused the error
 * @typedef {{line: number, column: number, locals: [string, string][]}} Frame a frame with its local variables as text
 */

/** The step uses a feature that this version does not support. */
export class UnsupportedFeatureError extends Error {
  /** @param {string} what */
  constructor(what) {
    super(`${what} is not supported by this version.`);
    this.name = "UnsupportedError";
    this.pdkernelCode = "unsupported";
  }
}

/** pdkernel refused a service call. The error is created at the call, so that its stack contains the line of user code. */
export class CallRefusedError extends Error {
  /** @param {{name: string, message: string, code?: string, fix?: string}} fault */
  withFault(fault) {
    this.name = fault.name;
    this.message = fault.message;
    this.pdkernelCode = fault.code;
    this.pdkernelFix = fault.fix;
    return this;
  }
}

const IMPORTED = Symbol("pdkernel.imported");

/**
 * Store on *error* which import of a step failed.
 *
 * @param {any} error
 * @param {string} specifier
 */
export function noteFailedImport(error, specifier) {
  if (error instanceof Error && Object.isExtensible(error)) {
    Object.defineProperty(error, IMPORTED, { value: specifier, configurable: true });
  }
  return error;
}

/** The cell has no default export. */
export class EntryPointError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "EntryPointError";
    this.pdkernelCode = "entry_point";
    this.pdkernelFix =
      "Write `export default defineComponent({ async run({ steps, $ }) { ... } })`. " +
      "The return value of run is the step's $return_value.";
  }
}

/**
 * Describe an error of a step.
 *
 * @param {any} error the thrown value
 * @param {StepCode} step
 * @param {(stack: string) => Frame[]} framesFor returns the frames with local variables for the stack of an error
 * @returns {Fault}
 */
export function describeError(error, step, framesFor) {
  if (error instanceof SyntaxError && !placedIn(error, step)) {
    const file = /** @type {any} */ (error)[SYNTAX_ERROR_FILE];
    const imported = file && { ...step, file, source: step.files?.[file], offset: 0, root: step.folder };
    const place = syntaxError(error, imported ?? step);
    if (place) return place;
  }
  const isObject = error !== null && (typeof error === "object" || typeof error === "function");
  const { name, message } = isObject ? headline(error) : { name: "Error", message: String(error) };
  const frames = isObject ? usersFrames(error, step) : [];
  addLocals(frames, framesFor(text(() => error?.stack, "")), step);
  const missing = missingPackage(error, step);
  const ofStep = (/** @type {{file: string}} */ frame) => frame.file === step.file && !step.root;
  const causeFrames = isObject ? usersFrames(error.cause, step) : [];
  const imported = isObject && !missing && !/^[./]|^file:/.test(error[IMPORTED]) ? error[IMPORTED] : undefined;
  const line =
    frames.find(ofStep)?.line ??
    missing?.line ??
    causeFrames.find(ofStep)?.line ??
    (isObject && error[IMPORTED] ? importLine(step, error[IMPORTED]) : null);
  const causes = isObject ? cause(error, step) : [];
  const during = imported ? ` (while '${imported}' was imported)` : "";
  const lines = [`${name}: ${missing?.message ?? message + during}`, ...shown(frames), ...causes];
  // fetch throws only "fetch failed"; the reason is in its cause
  const more = causes.length && message === "fetch failed" ? `: ${text(() => error.cause.message, "")}` : "";
  return {
    code: String((isObject && error.pdkernelCode) || "step_failed"),
    name,
    message: missing?.message ?? message + more + during,
    line,
    // the platform's ConfigurationError is for the user who sets the props, so it has no stack
    stack: lines.length > 1 && !(isObject && error.exposeStack === false) ? lines.join("\n") : null,
    fix: missing?.fix ?? String((isObject && error.pdkernelFix) || (name === "ReferenceError" && FIXES[message]) || ""),
    prop: isObject && error.pdkernelProp ? String(error.pdkernelProp) : undefined,
  };
}

/**
 * The name and the message of an error.
 *
 * The platform's axios puts "AxiosError - Request failed with status code 404" into the name of an error, and the response body
 * as JSON into its message. This function moves the text after the dash from the name into the message.
 *
 * @param {any} error
 */
function headline(error) {
  const name = text(() => error.name, "Error");
  const message = text(() => error.message, text(() => JSON.stringify(error), ""));
  const [, kind, detail] = /^(\w*Error) - ([^]+)$/.exec(name) ?? [];
  if (!kind) return { name, message };
  const body = text(() => JSON.stringify(JSON.parse(message), null, 2), message);
  return { name: kind, message: body && body !== "undefined" ? `${detail}\n${body}` : detail };
}

/**
 * Whether the stack of *error* has a frame of the step.
 *
 * @param {any} error
 * @param {StepCode} step
 */
function placedIn(error, step) {
  // a SyntaxError with a frame of the step was thrown by running code, such as JSON.parse
  return usersFrames(error, step).some((frame) => frame.file === step.file);
}

/**
 * Return the result of *read* as text; *otherwise* if it throws or has no result.
 *
 * @param {() => any} read
 * @param {string} otherwise
 */
function text(read, otherwise) {
  try {
    const value = read();
    return value === undefined || value === null ? otherwise : String(value);
  } catch {
    return otherwise;
  }
}

/**
 * The frames of user code in the stack of *error*, with source lines.
 *
 * @param {any} error
 * @param {StepCode} step
 */
function usersFrames(error, step) {
  const stack = text(() => error?.stack, "");
  const frames = [];
  for (const at of stack.split("\n")) {
    const found = /^\s+at (?:(.*?) \()?(.+?):(\d+):(\d+)\)?$/.exec(at);
    if (!found) continue;
    const [, called, file, line, column] = found;
    if (!isUsers(file, step)) continue;
    const where = `    at ${called ? `${called} (${file}:${line}:${column})` : `${file}:${line}:${column}`}`;
    const text = file === step.file ? step.source : step.files?.[file];
    const source = text?.split("\n")[Number(line) - 1 - (file === step.file ? step.offset : 0)]?.trim();
    frames.push({ file, line: Number(line), text: source ? `${where}\n      ${source}` : where });
  }
  return frames;
}

/**
 * Add the local variables in *seen* to the texts of the step's *frames*.
 *
 * @param {{file: string, line: number, text: string}[]} frames
 * @param {Frame[]} seen
 * @param {StepCode} step
 */
function addLocals(frames, seen, step) {
  const left = [...seen];
  for (const frame of frames) {
    if (frame.file !== step.file) continue;
    const at = left.findIndex(({ line }) => line === frame.line);
    if (at < 0) continue;
    const [{ locals }] = left.splice(at, 1);
    frame.text = [frame.text, ...locals.map(([name, value]) => `      ${name} = ${value}`)].join("\n");
  }
}

/**
 * Whether a stack frame's file is user code: the step, a file of its folder, or a file of its component's package.
 *
 * @param {string} file
 * @param {StepCode} step
 */
function isUsers(file, step) {
  if (file.startsWith("async ")) file = file.slice(6);
  if (file.startsWith(BUILT_IN)) return false;
  if (file === step.file || (step.files && Object.hasOwn(step.files, file))) return true;
  if (/^(node:|<)/.test(file) || file.startsWith(RUNTIME_FOLDER_URL)) return false;
  const path = file.startsWith("file:") ? fileURLToPath(file) : file;
  const folder = step.root ?? step.folder;
  return path.startsWith(folder) && !path.slice(folder.length).includes("/node_modules/");
}

/**
 * The lines about the cause of *error*; empty if it has none.
 *
 * @param {any} error
 * @param {StepCode} step
 * @returns {string[]}
 */
function cause(error, step) {
  const inner = error?.cause;
  if (inner === undefined || inner === null) return [];
  const output = text(() => `${inner.name ?? "Error"}: ${inner.message ?? inner}`, "?");
  return [`Caused by: ${output}`, ...shown(usersFrames(inner, step))];
}

/**
 * The texts of at most MAX_FRAMES frames.
 *
 * @param {{text: string}[]} frames
 */
function shown(frames) {
  const texts = frames.slice(0, MAX_FRAMES).map((frame) => frame.text);
  if (frames.length > MAX_FRAMES) texts.push(`    ... and ${frames.length - MAX_FRAMES} more of your frames`);
  return texts;
}

/**
 * Explain the failed import of a package or file; undefined for another error.
 *
 * @param {any} error
 * @param {StepCode} step
 */
function missingPackage(error, step) {
  if (!["ERR_MODULE_NOT_FOUND", "MODULE_NOT_FOUND"].includes(error?.code)) return undefined;
  const output = text(() => error.message, "");
  const found = /Cannot find (package|module) '([^']+)'(?: imported from (.+))?/.exec(output);
  if (!found) return undefined;
  const specifier = found[2];
  const name = packageOf(specifier);
  const file = error.requireStack?.[0] ?? found[3] ?? "";
  const importer = packageIn(file);
  const isNeeded = importer && requiresPackage(file, name);
  if (step.root && !/^(\.|\/|file:)/.test(specifier)) {
    // some components import a package that is missing in their own dependencies
    const folder = step.root.split("/node_modules/")[0];
    const isOther = isNeeded && packageFolder(file) !== step.root.replace(/\/$/, "");
    return {
      message: isOther
        ? `The package '${importer}' needs '${name}', which is not installed.`
        : `The package '${name}' is not installed.`,
      fix: isOther
        ? `The packages beside the component are incomplete. In ${folder}, run: npm install`
        : `Install the package beside the component. In ${folder}, run: npm install ${name}`,
      line: null,
    };
  }
  const imported = error[IMPORTED];
  if (importer && imported && packageOf(imported) !== name) {
    return {
      message: isNeeded
        ? `The package '${importer}' needs '${name}', which is not installed.`
        : `The package '${importer}' imports '${name}', which is missing in its dependencies.`,
      fix: `Import the missing package in the step, too, so that it is installed beside it: import "${name}";`,
      line: importLine(step, imported),
    };
  }
  const isFile = /^(\.|\/|file:)/.test(specifier);
  const line = importLine(step, imported ?? (isFile ? /** @type {string} */ (specifier.split("/").pop()) : name));
  if (isFile && packageIn(specifier)) {
    return { message: `The package '${packageIn(specifier)}' has no file for '${imported ?? specifier}'.`, fix: "", line };
  }
  if (isFile) return { message: `There is no file ${specifier}.`, fix: "", line };
  return {
    message: `The package '${name}' is not installed.`,
    fix: "Import the package by a literal name, so that it is found and installed before the run.",
    line,
  };
}

/**
 * The package name in an import specifier: without version and path.
 *
 * @param {string} specifier
 */
function packageOf(specifier) {
  return /^(@[^/]+\/[^/@]+|[^/@]+)/.exec(specifier)?.[1] ?? specifier;
}

/**
 * The package that a file belongs to, or the empty string.
 *
 * @param {string} file
 */
function packageIn(file) {
  return PACKAGE_FOLDER.exec(file)?.[1] ?? "";
}

/**
 * The folder of the package that a file belongs to, or the empty string.
 *
 * @param {string} file
 */
function packageFolder(file) {
  return PACKAGE_FOLDER.exec(file)?.[0] ?? "";
}

/**
 * Whether the package of *file* names the package *name* in its dependencies.
 *
 * @param {string} file
 * @param {string} name
 */
function requiresPackage(file, name) {
  try {
    const written = JSON.parse(readFileSync(join(packageFolder(file), "package.json"), "utf8"));
    return ["dependencies", "optionalDependencies", "peerDependencies"].some((key) => Object.hasOwn(written[key] ?? {}, name));
  } catch {
    return false; // the file cannot be read
  }
}

/**
 * The line of the cell that imports *name*, or null.
 *
 * @param {StepCode} step
 * @param {string} name
 */
function importLine(step, name) {
  const quoted = new RegExp(`["'\`/]${name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}["'\`@/]`);
  const at = step.source.split("\n").findIndex((line) => /\b(import|require|from)\b/.test(line) && quoted.test(line));
  return at < 0 ? null : at + 1 + step.offset;
}

/**
 * Describe a syntax error of the step. V8 reports no position for one in a module; `node --check` does, in about 60 ms.
 *
 * @param {any} error
 * @param {StepCode} step
 * @returns {Fault | undefined}
 */
function syntaxError(error, step) {
  const folder = mkdtempSync(join(tmpdir(), "check-"));
  try {
    // check as a module, unless the step is CommonJS
    const file = join(folder, error.pdkernelCommonJS ? "step.cjs" : "step.mjs");
    writeFileSync(file, step.source, { mode: 0o600 });
    const { NODE_OPTIONS, ...environment } = process.env;
    const { spawnSync } = /** @type {typeof import("node:child_process")} */ (createRequire(import.meta.url)("node:child_process"));
    const output = spawnSync(process.execPath, ["--check", file], { encoding: "utf8", env: environment }).stderr;
    const lines = output.split("\n");
    const message = text(() => error.message, "");
    const head = lines.findIndex((line) => /step\.[cm]js:\d+$/.test(line));
    if (head < 0) {
      // the syntax is correct: an imported name does not exist
      const missing = /The requested module '([^']+)' does not provide an export/.exec(message);
      if (!missing) return undefined;
      const line = importLine(step, missing[1]);
      return { code: "step_failed", name: "SyntaxError", message, line, stack: null, fix: "" };
    }
    const line = Number(/:(\d+)$/.exec(lines[head])?.[1]) + step.offset;
    return {
      code: "step_failed",
      name: "SyntaxError",
      message,
      line: step.root ? null : line,
      stack: [`${step.file}:${line}`, lines[head + 1], lines[head + 2], `SyntaxError: ${message}`].join("\n"),
      fix: "",
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

