// @ts-check
/**
 * Loads a step's source as a module, fresh each time, with packages resolved from the project's folder.
 *
 * Knows vm.SourceTextModule (so that frames carry the cell's lines and an edit leaks nothing), CommonJS-style
 * steps and version suffixes in specifiers.
 */

import { createRequire, isBuiltin } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";
import { EntryPointError } from "./node_errors.mjs";

const SUFFIX = /^(@[^/]+\/[^/@]+|[^./@:][^/@:]*)@[^/]+(\/.*)?$/;
const COMMONJS = /\bmodule\.exports\b|\bexports\.\w|\brequire\s*\(/;

/** @typedef {import("./node_errors.mjs").StepCode} StepCode */

/** Loads steps for one run. */
export class Loader {
  /**
   * @param {string} folder where bare imports are resolved from
   * @param {() => void} adopt is called when a package has been loaded: what it did to globals stays
   */
  constructor(folder, adopt) {
    this.parent = pathToFileURL(join(folder, "step.mjs")).href;
    this.require = createRequire(join(folder, "step.cjs"));
    this.adopt = adopt;
    /** Whether a file of the user's own was loaded: Node.js keeps it, so a later run would see an old one. */
    this.ownFiles = false;
  }

  /**
   * @param {StepCode} step
   * @returns {Promise<any>} the default export
   */
  async load(step) {
    const exported = this.commonJS(step) ?? (await this.module(step));
    if (exported === undefined || exported === null || !["object", "function"].includes(typeof exported)) {
      throw new EntryPointError("The step has no default export.");
    }
    if (typeof exported === "object" && typeof exported.run !== "function") {
      throw new EntryPointError("The step's default export has no run method.");
    }
    return exported;
  }

  /** @param {StepCode} step */
  async module(step) {
    /** @type {any} */
    const dynamic = (/** @type {string} */ specifier, /** @type {any} */ _from, /** @type {any} */ attributes) =>
      this.import(specifier, attributes);
    const module = new vm.SourceTextModule(step.source, {
      identifier: step.file,
      lineOffset: step.offset,
      initializeImportMeta: (meta) => {
        meta.url = this.parent;
      },
      importModuleDynamically: dynamic,
    });
    /** @type {any} */
    const link = async (/** @type {string} */ specifier, /** @type {any} */ _from, /** @type {any} */ extra) => {
      const namespace = await this.import(specifier, extra?.attributes ?? extra?.assert);
      const names = Object.keys(namespace);
      return new vm.SyntheticModule(
        names,
        function () {
          for (const name of names) this.setExport(name, namespace[name]);
        },
        { identifier: specifier },
      );
    };
    await module.link(link);
    await module.evaluate();
    return /** @type {any} */ (module.namespace).default;
  }

  /**
   * A step in CommonJS style: no import or export, and something of require or module.exports.
   *
   * @param {StepCode} step
   */
  commonJS(step) {
    if (!COMMONJS.test(step.source)) return undefined;
    let body;
    try {
      body = vm.compileFunction(step.source, ["exports", "require", "module", "__filename", "__dirname"], {
        filename: step.file,
        lineOffset: step.offset,
        importModuleDynamically: /** @type {any} */ ((/** @type {string} */ specifier) => this.import(specifier)),
      });
    } catch {
      return undefined; // import, export or top-level await: a module, or wrong as one too
    }
    const module = { exports: /** @type {any} */ ({}) };
    const require = Object.assign((/** @type {string} */ specifier) => {
      this.note(specifier);
      const found = this.require(plain(specifier));
      this.adopt();
      return found;
    }, this.require);
    body.call(module.exports, module.exports, require, module, step.file, process.cwd());
    const exported = module.exports;
    if (exported && typeof exported === "object" && "default" in exported) return exported.default;
    return typeof exported === "object" && Object.keys(exported).length === 0 ? null : exported;
  }

  /**
   * @param {string} specifier
   * @param {Record<string, string>} [attributes]
   */
  async import(specifier, attributes) {
    this.note(specifier);
    const url = /** @type {any} */ (import.meta).resolve(plain(specifier), this.parent);
    const options = attributes && Object.keys(attributes).length ? { with: { ...attributes } } : undefined;
    const namespace = options ? await import(url, /** @type {any} */ (options)) : await import(url);
    if (!isBuiltin(specifier)) this.adopt();
    return namespace;
  }

  /** @param {string} specifier */
  note(specifier) {
    if (/^(\.|\/|file:)/.test(specifier)) this.ownFiles = true;
  }
}

/**
 * parity[npm-versions]: the platform installs the version that a specifier names (`axios@1.2.3`); so far the one that is
 * installed is used.
 *
 * @param {string} specifier
 */
function plain(specifier) {
  if (isBuiltin(specifier)) return specifier;
  return specifier.replace(SUFFIX, (_whole, name, rest) => name + (rest ?? ""));
}
