// @ts-check
/**
 * Starts the worker program `main.mjs`, from a code cache if there is one: the start then takes two thirds of the CPU.
 *
 * `start.mjs CACHE` reads the cache; `start.mjs --write CACHE STAMP` writes it and runs nothing. The cache has the sources of the
 * modules, V8's code for them, and the names that they import from Node.js. Its first line is JSON. V8 rejects the code of another
 * version; the server, which passes only a cache with the stamp of the current sources, writes it where it writes its own code.
 */

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { readFileSync, renameSync, writeFileSync } = /** @type {typeof import("node:fs")} */ (require("node:fs"));
const vm = /** @type {typeof import("node:vm")} */ (require("node:vm"));

const MAIN = "main.mjs";
const IMPORT = /^import (?:(\w+)(?:, | ))?(?:\{([^}]*)\} )?from "([^"]+)";/gm;

/**
 * @typedef {object} Part
 * @property {string} name
 * @property {string} source
 * @property {Buffer} [code]
 * @typedef {Record<string, string[]>} Names the names that are imported from each module of Node.js
 */

/**
 * Compile and link the modules.
 *
 * @param {Part[]} parts
 * @param {Names} names
 * @returns {Promise<Map<string, vm.SourceTextModule>>}
 */
async function link(parts, names) {
  const modules = new Map();
  for (const { name, source, code } of parts) {
    const identifier = new URL(name, import.meta.url).href;
    const module = new vm.SourceTextModule(source, {
      identifier,
      cachedData: code,
      initializeImportMeta: (meta) => Object.assign(meta, { url: identifier, resolve: import.meta.resolve }),
      importModuleDynamically: /** @type {any} */ ((/** @type {string} */ specifier, /** @type {any} */ _from, /** @type {any} */ attributes) =>
        import(specifier, /** @type {any} */ ({ with: { ...attributes } }))),
    });
    modules.set(`./${name}`, module);
  }
  for (const [id, wanted] of Object.entries(names)) {
    // only the imported names: some exports of Node.js load further modules when they are read
    const exports = require(id);
    const module = new vm.SyntheticModule(wanted, function () {
      for (const name of wanted) this.setExport(name, name === "default" ? exports : exports[name]);
    });
    modules.set(id, module);
  }
  await modules.get(`./${MAIN}`).link((/** @type {string} */ specifier) => modules.get(specifier));
  return modules;
}

/**
 * Read the modules of a cache, and link them. Throws an error if this version of Node.js cannot use the cache.
 *
 * @param {string} file
 */
async function load(file) {
  const data = readFileSync(file);
  let at = data.indexOf(10) + 1;
  const { names, sizes } = JSON.parse(data.toString("utf8", 0, at));
  const parts = sizes.map((/** @type {[string, number, number]} */ [name, source, code]) => {
    const part = { name, source: data.toString("utf8", at, at + source), code: data.subarray(at + source, at + source + code) };
    at += source + code;
    return part;
  });
  return (await link(parts, names)).get(`./${MAIN}`);
}

/**
 * Write the cache.
 *
 * @param {string} file
 * @param {string} stamp
 */
async function write(file, stamp) {
  const { setFlagsFromString } = /** @type {typeof import("node:v8")} */ (require("node:v8"));
  /** @type {Part[]} */
  const parts = [];
  /** @type {Names} */
  const names = {};
  const found = new Set([MAIN]);
  for (const name of found) {
    const source = readFileSync(new URL(name, import.meta.url), "utf8");
    parts.push({ name, source });
    for (const [, whole, some, from] of source.matchAll(IMPORT)) {
      if (from.startsWith("./")) found.add(from.slice(2));
      else {
        const list = (some ?? "").split(",").map((each) => each.trim().split(" as ")[0]).filter(Boolean);
        names[from] = [...new Set([...(names[from] ?? []), ...list, ...(whole ? ["default"] : [])])];
      }
    }
  }
  setFlagsFromString("--no-lazy"); // code of functions that are compiled lazily is not in the cache
  const modules = await link(parts, names);
  setFlagsFromString("--lazy");
  const codes = parts.map(({ name }) => /** @type {any} */ (modules.get(`./${name}`)).createCachedData());
  const sizes = parts.map(({ name, source }, index) => [name, Buffer.byteLength(source), codes[index].length]);
  const contents = parts.flatMap(({ source }, index) => [Buffer.from(source), codes[index]]);
  const data = Buffer.concat([Buffer.from(`${JSON.stringify({ stamp, names, sizes })}\n`), ...contents]);
  writeFileSync(`${file}.${process.pid}`, data, { mode: 0o644 });
  renameSync(`${file}.${process.pid}`, file);
}

const [cache, target, stamp] = process.argv.splice(2);
if (cache === "--write") {
  if (parseInt(process.versions.node) < 22) process.exit(1); // a module with cached code has no `import()`
  await write(target, stamp);
} else {
  const main = cache ? await load(cache).catch(() => undefined) : undefined;
  await (main ? main.evaluate() : import("./main.mjs"));
}
