// What plain Node.js finds in an app's package: `node entry_points.mjs FOLDER` prints one line of JSON for each module
// that may be a component. The sweep compares what pdkernel does with this.
//
// `run` is the text of the component's own run method, by which its marks are known.

import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [folder] = process.argv.slice(2);
const lines = [];
for (const kind of ["action", "source"]) {
  const place = join(folder, `${kind}s`);
  let names = [];
  try {
    names = readdirSync(place);
  } catch {
    continue; // no such components in this app
  }
  for (const name of names.sort()) {
    const path = join(place, name, `${name}.mjs`);
    try {
      if (!/\bkey\s*:/.test(readFileSync(path, "utf8"))) continue;
    } catch {
      continue;
    }
    try {
      const { default: component } = await import(pathToFileURL(path).href);
      const { key, version, type, run } = component;
      lines.push({ path, kind, key, version, type, run: String(run) });
    } catch (error) {
      lines.push({ path, kind, error: String(error?.message ?? error) });
    }
  }
}
// some packages keep the process alive
process.stdout.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(""), () => process.exit(0));
