// @ts-check
/**
 * Compiles a step's source and loads it as a new module for each execution. Imports come from the folder of installed packages.
 *
 * It uses vm.SourceTextModule, so that stack frames have the cell's lines and an old version leaves no state. The bytecode of a
 * source is cached. Steps in CommonJS style are supported. Node.js loads the modules of packages.
 */

import Module, { createRequire, isBuiltin } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { types } from "node:util";
import { setFlagsFromString } from "node:v8";
import vm from "node:vm";
import { EntryPointError, noteFailedImport } from "./error_report.mjs";
import { COMMONJS, replaceAssert, StepFiles, synthetic } from "./imported_files.mjs";

const SPECIFIER = /^((?:@[^/@\s]+\/)?[^/@\s][^/@]*(?:@[^/]+)?)(\/.*)?$/s;
/** The file name of the step's code beside its files. */
const ENTRY_FILE = "step.mjs";
const OWN_FILE = /^(\.|\/|file:)/;

/** Whether bytecode is cached: before Node.js 22, a module with cached bytecode has no `import()`. */
const MAY_CACHE = parseInt(process.versions.node) >= 22;
/** Up to this number of characters, all functions of a source are compiled at once, instead of at their first call. */
const MAX_EAGER_CHARS = 40_000;

/** @type {Map<string, {file: string, offset: number, cachedData: Buffer}>} by source */
const codeCache = new Map();

/** URLs and files that steps have imported in this process. */
const loaded = new Set();

/**
 * The URL that a step would have as a file in *folder*.
 *
 * @param {string} folder
 */
function urlIn(folder) {
  return pathToFileURL(join(folder, ENTRY_FILE)).href;
}

/**
 * @typedef {import("./error_report.mjs").StepCode} StepCode
 * @typedef {{folder: string, aliases: Record<string, string>}} Tree installed packages: maps an import of code
 * (`axios@0.19.2`) to a folder under `node_modules`
 */

/** Loads steps for one run. */
export class ModuleLoader {
  /**
   * @param {string} folder the folder from which imports are resolved that are not among the installed packages
   * @param {() => () => void} watch called before a package is loaded; the function that it returns is called afterwards, so that
   * changes that the package makes to globals remain
   * @param {Record<string, Tree>} packages by step
   */
  constructor(folder, watch, packages = {}) {
    this.folder = folder;
    this.watch = watch;
    this.packages = packages;
    /** Whether a file of the user was loaded: Node.js caches it, so a later run would get an old version. */
    this.ownFiles = false;
    /** @type {Map<string, {source: string, module: vm.SourceTextModule, imports: Imports}>} by step */
    this.prepared = new Map();
  }

  /**
   * Compile *step* ahead of time. Its code does not run; `load` reports its errors.
   *
   * @param {StepCode} step
   */
  prepare(step) {
    if (step.files || COMMONJS.test(step.source)) return;
    const imports = new Imports(this, step);
    try {
      this.prepared.set(step.name, { source: step.source, module: compiled(step, imports), imports });
    } catch {
      // loading the step reports the same error
    }
  }

  /**
   * Load a step. Throws an error if its default export is not a component.
   *
   * @param {StepCode} step
   * @returns {Promise<any>} the default export
   */
  async load(step) {
    const ahead = this.prepared.get(step.name);
    this.prepared.delete(step.name);
    if (ahead?.source === step.source && !step.files) return checked(await evaluated(ahead.module, ahead.imports));
    const imports = new Imports(this, step);
    return checked(commonJS(step, imports) ?? (await evaluated(compiled(step, imports), imports)));
  }
}

/**
 * Return *exported* if it is a component; throws `EntryPointError` otherwise.
 *
 * @param {any} exported
 */
function checked(exported) {
  if (exported === undefined || exported === null || !["object", "function"].includes(typeof exported)) {
    throw new EntryPointError("The step has no default export.");
  }
  if (typeof exported === "object" && typeof exported.run !== "function") {
    throw new EntryPointError("The step's default export has no run method.");
  }
  return exported;
}

/** Resolves the imports of one step. */
class Imports {
  /** @type {NodeJS.Require | undefined} */ #require;

  /**
   * @param {ModuleLoader} loader
   * @param {StepCode} step
   */
  constructor(loader, step) {
    const tree = loader.packages[step.name];
    this.loader = loader;
    this.files = new StepFiles(
      step.name,
      step.files ?? {},
      (path, source) => compiled({ ...step, file: path, source, offset: 0 }, this, path),
      (specifier) => this.require(specifier),
      (path) => dynamic(this, path),
    );
    this.aliases = tree?.aliases ?? {};
    this.url = urlIn(loader.folder);
    this.treeUrl = tree && urlIn(tree.folder);
  }

  /** The path that the step would have as a file. */
  get filename() {
    return fileURLToPath(this.url);
  }

  /**
   * `import.meta` of the step, or of the file *path* that it imports.
   *
   * @param {string} path
   */
  metaOf(path) {
    const filename = this.files.exist ? join(this.files.folder, path || ENTRY_FILE) : this.filename;
    return {
      url: this.files.exist ? pathToFileURL(filename).href : this.url,
      filename,
      dirname: dirname(filename),
      resolve: (/** @type {string} */ specifier) => this.resolve(String(specifier)),
    };
  }

  /** The step's `require`. It is created at the first use, because a module does not need it. */
  get require() {
    this.#require ??= this.#requiring();
    return this.#require;
  }

  /** `require` in the step, which finds the step's files, too. */
  get requireForStep() {
    return this.requireAt("");
  }

  /**
   * `require` in the step, or in the file *path* that it imports.
   *
   * @param {string} path
   */
  requireAt(path) {
    if (!this.files.exist) return this.require;
    return Object.assign((/** @type {string} */ specifier) => this.files.requireFrom(specifier, path), this.require);
  }

  #requiring() {
    const own = createRequire(this.url);
    const installed = this.treeUrl ? createRequire(this.treeUrl) : own;
    const resolve = (/** @type {string} */ specifier, /** @type {any} */ options) => {
      const inTree = this.inTree(specifier);
      return inTree === undefined ? own.resolve(specifier, options) : installed.resolve(inTree, options);
    };
    return Object.assign(
      (/** @type {string} */ specifier) => {
        if (isBuiltin(specifier)) return own(specifier);
        this.note(specifier);
        const inTree = this.inTree(specifier);
        let keep = () => {};
        try {
          if (!this.isLoaded(resolve(specifier))) keep = this.loader.watch();
          return inTree === undefined ? own(specifier) : installed(inTree);
        } catch (error) {
          throw noteFailedImport(error, specifier);
        } finally {
          keep();
        }
      },
      own,
      { resolve: Object.assign(resolve, own.resolve) },
    );
  }

  /**
   * Return the specifier for the folder of installed packages; undefined if the package is not installed there.
   *
   * @param {string} specifier
   */
  inTree(specifier) {
    const [, named, rest = ""] = SPECIFIER.exec(specifier) ?? [];
    if (named === undefined || isBuiltin(specifier) || !Object.hasOwn(this.aliases, named)) return undefined;
    return this.aliases[named] + rest;
  }

  /**
   * Resolve a specifier to a URL.
   *
   * @param {string} specifier
   */
  resolve(specifier) {
    const inTree = this.inTree(specifier);
    const { resolve } = /** @type {any} */ (import.meta);
    return inTree === undefined ? resolve(specifier, this.url) : resolve(inTree, this.treeUrl);
  }

  /**
   * Import a module for the step.
   *
   * @param {string} specifier
   * @param {Record<string, string>} [attributes]
   */
  async import(specifier, attributes) {
    this.note(specifier);
    if (isBuiltin(specifier)) return this.builtin(await import(specifier));
    let keep = () => {};
    try {
      const url = this.resolve(specifier);
      if (!this.isLoaded(url)) keep = this.loader.watch();
      // as on the platform, JSON needs no attribute
      const wanted = attributes && Object.keys(attributes).length ? attributes : url.endsWith(".json") ? { type: "json" } : undefined;
      const options = wanted && { with: { ...wanted } };
      return options ? await import(url, /** @type {any} */ (options)) : await import(url);
    } catch (error) {
      throw noteFailedImport(error, specifier);
    } finally {
      keep();
    }
  }

  /**
   * Whether this process has loaded the module before, so that loading it does not change globals; records the module.
   *
   * @param {string} place
   */
  isLoaded(place) {
    return loaded.has(place) || !loaded.add(place);
  }

  /**
   * Return `node:module` with a `createRequire` that finds the step's packages; any other module is returned unchanged.
   *
   * @param {any} namespace
   */
  builtin(namespace) {
    if (namespace.default !== Module) return namespace;
    const mine = (/** @type {string | URL} */ from) => {
      if ([this.url, this.filename].includes(String(from))) return this.requireForStep;
      const place = String(from).startsWith("file:") ? fileURLToPath(from) : String(from);
      const path = this.files.exist ? relative(this.files.folder, place) : "";
      const isOwn = path === ENTRY_FILE || Object.hasOwn(this.files.texts, path);
      return isOwn ? this.requireAt(path === ENTRY_FILE ? "" : path) : createRequire(from);
    };
    const get = (/** @type {any} */ target, /** @type {PropertyKey} */ key) =>
      key === "createRequire" ? mine : Reflect.get(target, key);
    return { ...namespace, createRequire: mine, default: new Proxy(Module, { get }) };
  }

  /**
   * Record whether the step imports a file of the user.
   *
   * @param {string} specifier
   */
  note(specifier) {
    if (OWN_FILE.test(specifier)) this.loader.ownFiles = true;
  }
}

/**
 * Compile a step as a module.
 *
 * @param {StepCode} step
 * @param {Imports} imports
 * @param {string} [path] the path of a file that the step imports
 */
function compiled(step, imports, path = "") {
  return compileModule(step, {
    initializeImportMeta: (meta) => Object.assign(meta, imports.metaOf(path)),
    importModuleDynamically: dynamic(imports, path),
  });
}

/**
 * Link and evaluate a module; returns its default export.
 *
 * @param {vm.SourceTextModule} module
 * @param {Imports} imports
 */
async function evaluated(module, imports) {
  return (await ready(module, imports)).default;
}

/**
 * Link and evaluate a module; returns its namespace.
 *
 * @param {vm.Module} module
 * @param {Imports} imports
 * @returns {Promise<any>}
 */
async function ready(module, imports) {
  /** @type {any} */
  const link = async (/** @type {string} */ specifier, /** @type {vm.Module} */ from, /** @type {any} */ extra) => {
    const path = imports.files.find(specifier, Object.hasOwn(imports.files.texts, from.identifier) ? from.identifier : "");
    if (path !== undefined) return imports.files.module(path);
    const namespace = await imports.import(specifier, extra?.attributes ?? extra?.assert);
    return synthetic(specifier, namespace);
  };
  if (module.status === "unlinked") await module.link(link);
  await module.evaluate();
  return module.namespace;
}

/**
 * Return the implementation of `import()` in a step, or in the file *from* that the step imports.
 *
 * @param {Imports} imports
 * @param {string} [from]
 * @returns {any}
 */
function dynamic(imports, from = "") {
  return async (/** @type {string} */ specifier, /** @type {any} */ _from, /** @type {any} */ attributes) => {
    const path = imports.files.find(String(specifier), from);
    if (path !== undefined) return ready(imports.files.module(path), imports);
    const namespace = await imports.import(specifier, attributes);
    if (types.isModuleNamespaceObject(namespace)) return namespace;
    const module = synthetic(specifier, namespace);
    await module.link(/** @type {any} */ (() => {}));
    await module.evaluate();
    return module;
  };
}

/**
 * Load a step in CommonJS style, which has no import or export and uses require or module.exports. Returns undefined for another
 * step.
 *
 * @param {StepCode} step
 * @param {Imports} imports
 */
function commonJS(step, imports) {
  if (!COMMONJS.test(step.source)) return undefined;
  let body;
  try {
    body = vm.compileFunction(step.source, ["exports", "require", "module", "__filename", "__dirname"], {
      filename: step.file,
      lineOffset: step.offset,
      importModuleDynamically: dynamic(imports),
    });
  } catch {
    return undefined; // import, export or top-level await: it is a module, or also invalid as a module
  }
  const module = { exports: /** @type {any} */ ({}) };
  const names = imports.files.names(step.source, ENTRY_FILE, step.file, process.cwd());
  body.call(module.exports, module.exports, imports.requireForStep, module, ...names);
  const exported = module.exports;
  if (exported && typeof exported === "object" && "default" in exported) return exported.default;
  return typeof exported === "object" && Object.keys(exported).length === 0 ? null : exported;
}

/**
 * Compile a source, with the bytecode of an earlier compilation if it is cached.
 *
 * @param {StepCode} step
 * @param {Pick<vm.SourceTextModuleOptions, "initializeImportMeta" | "importModuleDynamically">} options
 * @returns {vm.SourceTextModule}
 */
function compileModule({ source: written, file, offset }, options) {
  const source = replaceAssert(written);
  const all = { ...options, identifier: file, lineOffset: offset };
  // V8's own cache never finds these modules again, because each has its own `import()` callback. But it stores them and searches
  // all of them at each compilation, so each execution would be slower than the previous one.
  setFlagsFromString("--no-compilation-cache");
  try {
    if (!MAY_CACHE) return new vm.SourceTextModule(source, all);
    const before = codeCache.get(source);
    if (before?.file === file && before.offset === offset) {
      try {
        return new vm.SourceTextModule(source, { ...all, cachedData: before.cachedData });
      } catch {
        // V8 rejects the cache if a step changed flags
      }
    }
    // functions that are compiled lazily are not in the cache
    if (source.length <= MAX_EAGER_CHARS) setFlagsFromString("--no-lazy");
    const module = new vm.SourceTextModule(source, all);
    setFlagsFromString("--lazy");
    codeCache.set(source, { file, offset, cachedData: module.createCachedData() });
    return module;
  } finally {
    setFlagsFromString("--lazy");
    setFlagsFromString("--compilation-cache");
  }
}
