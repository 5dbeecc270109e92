// @ts-check
import { writeFile } from "node:fs/promises";

export default {
  key: "helper_functions-download-file-to-tmp",
  name: "Download a file to /tmp",
  description: "Writes the file of a URL into /tmp, and returns its name and its path.",
  version: "0.3.1",
  type: "action",
  props: {
    url: { type: "string", label: "URL", description: "The URL of the file." },
    filename: { type: "string", label: "File name", description: "The name of the file in /tmp." },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const response = await fetch(this.url);
    if (!response.ok) throw new Error(`Request failed with status code ${response.status}: ${this.url}`);
    const path = `/tmp/${this.filename}`;
    await writeFile(path, Buffer.from(await response.arrayBuffer()));
    $.export("$summary", `Downloaded ${path}.`);
    return [this.filename, path];
  },
};
