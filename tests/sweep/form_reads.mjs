// Prints each field of `$auth` that the methods of one app's module read: they run with an account that records its reads.
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { pathToFileURL } from "node:url";

// any value: a function and an object whose members are any value, empty as a list and as a text
const anything = new Proxy(function () {}, {
  get: (_, name) => {
    if (name === "then") return undefined;
    if (name === Symbol.toPrimitive) return () => "";
    if (name === Symbol.iterator || name === Symbol.asyncIterator) return function* () {};
    return name === "length" ? 0 : name === "prototype" ? {} : anything;
  },
  apply: () => anything,
  construct: () => anything,
  has: () => true,
});
globalThis.anything = anything;
for (const name of Object.keys(console)) console[name] = () => {}; // the output has the fields only
globalThis.defineApp = globalThis.defineComponent = globalThis.defineAction = globalThis.defineSource = (value) => value;

const names = (clause) =>
  clause
    .replace(/\{([^}]*)\}/g, (_, inside) => inside.split(",").map((each) => each.trim().split(/\s+as\s+/).pop()).join(","))
    .replace(/\*\s+as\s+/g, "")
    .split(",")
    .map((each) => each.trim())
    .filter(Boolean);
// packages are not installed: what a module imports from one is any value
const withoutPackages = (source) =>
  source
    .replace(/^import\s+(?!type\b)([^'"]+?)\s+from\s+["'][^."'][^"']*["'](\s+with\s+\{[^}]*\})?;?/gm, (_, clause) =>
      names(clause).map((name) => `const ${name} = globalThis.anything;`).join(" "))
    .replace(/^import\s+["'][^."'][^"']*["'];?/gm, "");

registerHooks({
  load(url, context, next) {
    if (!url.startsWith("file:") || /\.json$/.test(url)) return next(url, context);
    let source = readFileSync(new URL(url), "utf8");
    if (/\.m?ts$/.test(url)) source = stripTypeScriptTypes(source);
    return { format: "module", source: withoutPackages(source), shortCircuit: true };
  },
});

const read = new Set();
const account = new Proxy({}, {
  get: (_, name) => {
    if (typeof name === "string" && name !== "then" && name !== "toJSON" && !read.has(name)) {
      read.add(name);
      process.stdout.write(`${name}\n`);
    }
    return "value";
  },
});
const app = (await import(pathToFileURL(process.argv[2]).href)).default;
const instance = new Proxy({ ...app.methods, $auth: account }, { get: (own, name) => (name in own ? own[name] : anything) });
for (const method of Object.values(app.methods ?? {})) {
  try {
    const ended = Promise.resolve(method.call(instance, anything, anything, anything)).catch(() => {});
    await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 20))]);
  } catch {
    // the method needs what the account does not have: what it has read until then counts
  }
}
process.exit(0);
