// @ts-check
/**
 * Loads the files that a step imports, from the texts in its request. Each load of a step makes new modules.
 *
 * ES modules, CommonJS and JSON are supported. Other imports of the files are those of the step. Code that reads `import.meta` or
 * `__dirname` finds the files on disk, too.
 */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import vm from "node:vm";

const SUFFIXES = ["", ".js", ".mjs", ".cjs", ".json", "/index.js", "/index.mjs", "/index.cjs"];
export const COMMONJS = /\bmodule\.exports\b|\bexports\.\w|\brequire\s*\(/;

const ASSERT = /(\bfrom\s*(?:"[^"\n]*"|'[^'\n]*')\s*)assert(?=\s*\{\s*type\s*:)/g;

/**
 * Return *source* with the `assert` of import attributes, which Node.js 20 accepts, as `with`, at the same columns.
 *
 * @param {string} source
 */
export function replaceAssert(source) {
  return source.includes("assert") ? source.replace(ASSERT, "$1with  ") : source;
}

/** The file that a SyntaxError is about. */
export const SYNTAX_ERROR_FILE = Symbol("pdkernel.file");

const READS_FOLDER = /\b__dirname\b/;

/** The files of one step, with the modules that are made from them. */
export class StepFiles {
  /** @type {string | undefined} */ #folder;
  /** @type {Map<string, vm.Module>} */ #modules = new Map();
  /** @type {Map<string, {exports: any}>} */ #commonJS = new Map();

  /**
   * @param {string} step the step's name
   * @param {Record<string, string>} texts the files by path from the folder of the step's entry file
   * @param {(path: string, source: string) => vm.SourceTextModule} compile compiles an ES module
   * @param {(specifier: string) => any} requirePackage `require` for everything else
   * @param {(path: string) => any} dynamic returns the implementation of `import()` in a file
   */
  constructor(step, texts, compile, requirePackage, dynamic) {
    this.step = step;
    this.texts = texts;
    this.compile = compile;
    this.requirePackage = requirePackage;
    this.dynamic = dynamic;
  }

  /** Whether the step has files. */
  get exist() {
    return Object.keys(this.texts).length > 0;
  }

  /** The folder of the step's entry file. At the first use, the files are written below the working folder. */
  get folder() {
    if (this.#folder !== undefined) return this.#folder;
    const depth = Math.max(...Object.keys(this.texts).map((path) => path.split("/").filter((part) => part === "..").length));
    this.#folder = join(process.cwd(), ".step_files", this.step, ...Array(depth).fill("_"));
    for (const [path, text] of Object.entries(this.texts)) {
      const place = join(this.#folder, path);
      mkdirSync(dirname(place), { recursive: true });
      writeFileSync(place, text);
    }
    return this.#folder;
  }

  /**
   * Return `__filename` and `__dirname` of the code *source*: on disk if it reads `__dirname` and the step has files, else *file*
   * and *folder*.
   *
   * @param {string} source
   * @param {string} path the path of the code among the files
   * @param {string} file
   * @param {string} folder
   * @returns {[string, string]}
   */
  names(source, path, file, folder) {
    if (!this.exist || !READS_FOLDER.test(source)) return [file, folder];
    const place = join(this.folder, path);
    return [place, dirname(place)];
  }

  /**
   * Return the path of the file that *specifier* names, or undefined.
   *
   * @param {string} specifier
   * @param {string} from the path of the importing file; empty for the step
   */
  find(specifier, from) {
    if (!/^\.\.?(\/|$)/.test(specifier)) return undefined;
    const target = posix.join(posix.dirname(from), specifier.split("?")[0]);
    return SUFFIXES.map((suffix) => target + suffix).find((path) => Object.hasOwn(this.texts, path));
  }

  /**
   * Return the module of the file at *path*, which the caller links and evaluates.
   *
   * @param {string} path
   * @returns {vm.Module}
   */
  module(path) {
    const known = this.#modules.get(path);
    if (known) return known;
    const made = this.#isCommonJS(path) ? this.#wrap(path, this.require(path)) : noting(path, () => this.compile(path, this.texts[path]));
    this.#modules.set(path, made);
    return made;
  }

  /**
   * Return the exports of the JSON or CommonJS file at *path*.
   *
   * @param {string} path
   */
  require(path) {
    const known = this.#commonJS.get(path);
    if (known) return known.exports;
    const module = { exports: /** @type {any} */ ({}) };
    this.#commonJS.set(path, module);
    if (path.endsWith(".json")) {
      module.exports = noting(path, () => JSON.parse(this.texts[path]));
    } else {
      const body = noting(path, () => this.#compileFunction(path));
      const require = Object.assign((/** @type {string} */ specifier) => this.requireFrom(specifier, path), this.requirePackage);
      const names = this.names(this.texts[path], path, path, posix.dirname(path));
      body.call(module.exports, module.exports, require, module, ...names);
    }
    return module.exports;
  }

  /**
   * `require` in the file *from*; empty for the step.
   *
   * @param {string} specifier
   * @param {string} from
   */
  requireFrom(specifier, from) {
    const path = this.find(specifier, from);
    return path === undefined ? this.requirePackage(specifier) : this.require(path);
  }

  /** @param {string} path */
  #isCommonJS(path) {
    if (/\.(json|cjs)$/.test(path)) return true;
    if (path.endsWith(".mjs") || !COMMONJS.test(this.texts[path])) return false;
    try {
      return Boolean(this.#compileFunction(path));
    } catch {
      return false; // import or export: it is a module, or also invalid as a module
    }
  }

  /** @param {string} path */
  #compileFunction(path) {
    return vm.compileFunction(this.texts[path], ["exports", "require", "module", "__filename", "__dirname"], {
      filename: path,
      importModuleDynamically: this.dynamic(path),
    });
  }

  /**
   * Return a module with the exports of a CommonJS or JSON file.
   *
   * @param {string} path
   * @param {any} exported
   */
  #wrap(path, exported) {
    const isObject = exported !== null && ["object", "function"].includes(typeof exported) && !path.endsWith(".json");
    return synthetic(path, { ...(isObject ? exported : {}), default: exported });
  }
}

/**
 * Wrap a loaded module's namespace as a module that a step can link to.
 *
 * @param {string} specifier
 * @param {any} namespace
 */
export function synthetic(specifier, namespace) {
  const names = Object.keys(namespace);
  return new vm.SyntheticModule(
    names,
    function () {
      for (const name of names) this.setExport(name, namespace[name]);
    },
    { identifier: specifier },
  );
}

/**
 * Return the result of *compile*; a SyntaxError that it throws names the file.
 *
 * @template T
 * @param {string} path
 * @param {() => T} compile
 * @returns {T}
 */
function noting(path, compile) {
  try {
    return compile();
  } catch (error) {
    if (error instanceof SyntaxError) {
      error.message = `${path}: ${error.message}`;
      if (!path.endsWith(".json")) Object.defineProperty(error, SYNTAX_ERROR_FILE, { value: path });
    }
    throw error;
  }
}
