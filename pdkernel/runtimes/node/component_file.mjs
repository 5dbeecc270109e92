// @ts-check
/**
 * Loads a component from a file, and finds the root folder of its package.
 *
 * Node.js loads and caches the modules, so an action is loaded once in the life of the process.
 */

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { hookComponentFiles } from "./component_modules.mjs";
import { EntryPointError } from "./error_report.mjs";

/** @type {Map<string, any>} */
const loaded = new Map();
/** @type {Map<string, string>} */
const roots = new Map();

/**
 * Find the root folder of the package that a component's file belongs to.
 *
 * @param {string} path
 * @returns {string} the nearest folder above with a `package.json`, else the file's folder; with a separator at the end
 */
export function findPackageRoot(path) {
  const folder = dirname(path);
  let root = roots.get(folder);
  if (root === undefined) {
    root = join(folder, "/");
    for (let at = folder; dirname(at) !== at; at = dirname(at)) {
      if (existsSync(join(at, "package.json"))) {
        root = join(at, "/");
        break;
      }
    }
    roots.set(folder, root);
  }
  return root;
}

/**
 * Load the component in the file of *step*, if this process has not loaded it yet.
 *
 * @param {import("./error_report.mjs").StepCode} step
 * @param {() => () => void} watch called before loading; the function that it returns is called afterwards, so that changes
 *   that the component's packages make to globals remain
 * @returns {Promise<any>} the component
 */
export async function loadComponent(step, watch) {
  const known = loaded.get(step.file);
  if (known) return known;
  const keep = watch();
  hookComponentFiles(step.file);
  let namespace;
  try {
    namespace = await import(step.file);
  } catch (error) {
    if (error instanceof SyntaxError) step.source = readFileSync(fileURLToPath(step.file), "utf8");
    throw error;
  }
  keep();
  const exported = namespace.default;
  const component = exported?.default ?? exported; // a CommonJS file that was compiled from a module
  if (component === null || typeof component !== "object") {
    throw new EntryPointError("The file has no component as its default export.");
  }
  loaded.set(step.file, component);
  return component;
}
