// @ts-check
/**
 * Module hooks for the files of components: TypeScript, imports without a suffix, and packages that are folders of a checkout.
 *
 * The platform's bundler does all of this; Node.js alone removes types, and only from files that are named with their suffix.
 */

import { existsSync, readFileSync } from "node:fs";
import Module from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { UnsupportedFeatureError } from "./error_report.mjs";
import { replaceAssert } from "./imported_files.mjs";

const TYPESCRIPT = /\.m?ts$/;
/** What an import without a suffix, or with that of the compiled file, may mean; in the order of the platform's compiler. */
const SUFFIXES = [".ts", ".mts", ".mjs", ".js", "/index.ts", "/index.mjs", "/index.js"];
const OWN_SCOPE = "@pipedream/";
/** The package of types and of functions that return their argument; it need not be installed. */
const TYPES_PACKAGE = "@pipedream/types";
const TYPES_URL = "pdkernel:component-types";
const TYPES_SOURCE = ["App", "Action", "Source", "Component"]
  .map((kind) => `export const define${kind} = (component) => component;`)
  .join("\n");
const IMPORT = /^([ \t]*import\s+)(?!type\b)(?:([\w$]+)\s*(,\s*)?)?(?:\{([^}]*)\})?(\s*from\s*["'][^"']+["'];?)/gm;

const TYPE = /^[ \t]*(?:export\s+)?(?:declare\s+)?(?:interface|type)\s+([\w$]+)/gm;
const VALUE = /^[ \t]*(?:export\s+)?(?:async\s+)?(?:const|let|var|class|function|enum)\s+([\w$]+)/gm;
const EXPORT = /^([ \t]*export\s*\{)([^}]*)(\}(?!\s*from\b)[ \t]*;?)/gm;
/** Comments and texts, whose words are not names; a template may have names in it. */
const NOT_CODE = /\/\*[^]*?\*\/|(?<![:\\\w])\/\/[^\n]*|"(?:[^"\\\n]|\\[^])*"|'(?:[^'\\\n]|\\[^])*'/g;

const { registerHooks, stripTypeScriptTypes } = /** @type {any} */ (Module);
let isHooked = false;

/**
 * Register the hooks for the component in *file*, once in the life of the process.
 *
 * @param {string} file its URL
 */
export function hookComponentFiles(file) {
  if (TYPESCRIPT.test(file) && !(registerHooks && stripTypeScriptTypes)) {
    throw new UnsupportedFeatureError(`A component in TypeScript, which needs Node.js 22.15 or newer (this is ${process.version}),`);
  }
  if (isHooked || !registerHooks) return;
  isHooked = true;
  registerHooks({ load: loadFile, resolve: resolveFile });
}

/**
 * Resolve what Node.js does not find.
 *
 * @param {string} specifier
 * @param {any} context
 * @param {(specifier: string, context: any) => any} nextResolve
 */
function resolveFile(specifier, context, nextResolve) {
  try {
    return nextResolve(specifier, context);
  } catch (error) {
    if (specifier === TYPES_PACKAGE) return { url: TYPES_URL, format: "module", shortCircuit: true };
    if (!context.parentURL?.startsWith("file:")) throw error;
    const found = findFile(specifier, dirname(fileURLToPath(context.parentURL)));
    if (found === undefined) throw error;
    return nextResolve(pathToFileURL(found).href, context);
  }
}

/**
 * Return the file that *specifier* means for a module in *folder*; undefined if there is none.
 *
 * @param {string} specifier
 * @param {string} folder
 */
function findFile(specifier, folder) {
  if (/^\.\.?\//.test(specifier)) return withSuffix(join(folder, specifier));
  if (!specifier.startsWith(OWN_SCOPE)) return undefined;
  const [app, ...rest] = specifier.slice(OWN_SCOPE.length).split("/");
  if (!/^\w+$/.test(app)) return undefined;
  for (let at = folder; dirname(at) !== at; at = dirname(at)) {
    const own = join(at, app);
    if (!existsSync(join(own, "package.json"))) continue;
    if (rest.length > 0) return withSuffix(join(own, ...rest));
    return [`${app}.app`, `app/${app}.app`].map((name) => withSuffix(join(own, name))).find(Boolean);
  }
  return undefined;
}

/** @param {string} path */
function withSuffix(path) {
  if (/\.[cm]?[jt]s$/.test(path) && existsSync(path)) return path;
  const plain = path.replace(/\.m?js$/, "");
  return SUFFIXES.map((suffix) => plain + suffix).find((each) => existsSync(each));
}

/**
 * Load the files of components as the platform's bundler does: JSON needs no attribute, `assert` is `with`, types are removed.
 *
 * @param {string} url
 * @param {any} context
 * @param {(url: string, context: any) => any} nextLoad
 */
function loadFile(url, context, nextLoad) {
  if (url === TYPES_URL) return { format: "module", source: TYPES_SOURCE, shortCircuit: true };
  if (!url.startsWith("file:")) return nextLoad(url, context);
  if (url.endsWith(".json")) return nextLoad(url, { ...context, importAttributes: { type: "json" } });
  if (TYPESCRIPT.test(url) && !url.includes("/node_modules/")) {
    const written = String(nextLoad(url, { ...context, format: "module" }).source);
    return { format: "module", source: replaceAssert(withoutTypes(written, url)), shortCircuit: true };
  }
  const loadedFile = nextLoad(url, context);
  if (loadedFile.format === "module" && loadedFile.source) loadedFile.source = replaceAssert(String(loadedFile.source));
  return loadedFile;
}

/**
 * Return the names that are types only in the TypeScript file of an import.
 *
 * @param {string} from the end of the import, with its specifier
 * @param {string} url of the module that imports
 */
function findTypes(from, url) {
  const specifier = /["'](\.{1,2}\/[^"']+)["']/.exec(from)?.[1];
  const path = specifier && findFile(specifier, dirname(fileURLToPath(url)));
  if (!path || !TYPESCRIPT.test(path)) return new Set();
  const text = readFileSync(path, "utf8");
  const values = new Set([...text.matchAll(VALUE)].map((found) => found[1]));
  return new Set([...text.matchAll(TYPE)].map((found) => found[1]).filter((name) => !values.has(name)));
}

/**
 * Return *source* as JavaScript with the same lines. Imports and exports of types are removed, although they are not marked as such.
 *
 * @param {string} source
 * @param {string} url
 */
function withoutTypes(source, url) {
  const { emitWarning } = process;
  process.emitWarning = () => {}; // of an experimental function, which a step cannot change
  let plain;
  try {
    try {
      plain = stripTypeScriptTypes(source);
    } catch {
      plain = stripTypeScriptTypes(source, { mode: "transform", sourceUrl: url }); // enums, parameter properties
    }
  } finally {
    process.emitWarning = emitWarning;
  }
  const code = plain.replace(IMPORT, "").replace(NOT_CODE, '""').replace(EXPORT, "");
  const words = new Set(code.split(/[^\w$]+/));
  plain = plain.replace(EXPORT, (_, /** @type {string} */ start, /** @type {string} */ named, /** @type {string} */ end) => {
    const kept = named.split(",").filter((each) => words.has(each.trim().split(/\s+as\s+/)[0]));
    return `${start}${kept.join(",")}${end}${"\n".repeat(named.split("\n").length - kept.join(",").split("\n").length)}`;
  });
  return plain.replace(IMPORT, (/** @type {string} */ all, /** @type {string} */ start, /** @type {string} */ own, _comma, /** @type {string} */ named, /** @type {string} */ from) => {
    if (own === undefined && named === undefined) return all;
    const types = findTypes(from, url);
    const kept = (named ?? "").split(",").filter((each) => {
      const [exported, local = exported] = each.trim().split(/\s+as\s+/);
      return words.has(local) && !types.has(exported);
    });
    const parts = [...(own && words.has(own) ? [own] : []), ...(kept.length > 0 ? [`{${kept.join(",")}}`] : [])];
    const lines = "\n".repeat(all.split("\n").length - 1);
    if (parts.length === 0) return lines;
    const written = `${start}${parts.join(", ")}${from}`;
    return written + "\n".repeat(Math.max(0, lines.length - written.split("\n").length + 1));
  });
}
