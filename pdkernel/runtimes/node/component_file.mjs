// @ts-check
/**
 * Loads a component from a file with its imports, as Node.js does, and finds the root folder of its package.
 *
 * Node.js caches modules: an action of an unchanged package is loaded once in the life of the process.
 */

import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { EntryPointError } from "./error_report.mjs";

/** @type {Map<string, any>} */
const loaded = new Map();
/** @type {Map<string, string>} */
const roots = new Map();

/**
 * @param {string} path
 * @returns {string} the nearest folder above that is a package or holds an app, with its separator
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
 * @param {import("./error_report.mjs").StepCode} step
 * @param {() => () => void} watch is called before loading, and its result afterwards: changes that the component's
 *   packages make to globals remain
 * @returns {Promise<any>} the component
 */
export async function loadComponent(step, watch) {
  const known = loaded.get(step.file);
  if (known) return known;
  const keep = watch();
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
