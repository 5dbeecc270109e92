// @ts-check
/**
 * Compiles a step's source as a module: a new one each time, with V8's code cache where the source was compiled before.
 *
 * Knows V8. Modules of one source share its bytecode, and nothing that any of them has done.
 */

import process from "node:process";
import { setFlagsFromString } from "node:v8";
import vm from "node:vm";

const { SourceTextModule } = vm;
/** Before Node.js 22 a module with cached code has no `import()`. */
const MAY_CACHE = parseInt(process.versions.node) >= 22;
/** Characters of a source whose functions are all compiled at once, rather than each when it is first called. */
const MAX_EAGER_CHARS = 20_000;

/** @type {Map<string, {file: string, offset: number, cachedData: Buffer}>} by source */
const known = new Map();

/**
 * @param {import("./error_report.mjs").StepCode} step
 * @param {Pick<vm.SourceTextModuleOptions, "initializeImportMeta" | "importModuleDynamically">} options
 * @returns {vm.SourceTextModule}
 */
export function compileModule({ source, file, offset }, options) {
  const all = { ...options, identifier: file, lineOffset: offset };
  // V8's own cache of scripts finds none of these again, as each has an `import()` of its own. It keeps them all the same,
  // and looks through all of one source whenever that is compiled: a process would take longer with each execution.
  setFlagsFromString("--no-compilation-cache");
  try {
    if (!MAY_CACHE) return new SourceTextModule(source, all);
    const before = known.get(source);
    if (before?.file === file && before.offset === offset) {
      try {
        return new SourceTextModule(source, { ...all, cachedData: before.cachedData });
      } catch {
        // V8 refuses it where a step has set other flags
      }
    }
    // what is compiled when it is first called does not get into the cache
    if (source.length <= MAX_EAGER_CHARS) setFlagsFromString("--no-lazy");
    const module = new SourceTextModule(source, all);
    setFlagsFromString("--lazy");
    known.set(source, { file, offset, cachedData: module.createCachedData() });
    return module;
  } finally {
    setFlagsFromString("--lazy");
    setFlagsFromString("--compilation-cache");
  }
}
