// @ts-check
/**
 * `$.files`: the project's file store, which is a folder, with the methods that the platform documents.
 *
 * A path outside of the folder is refused.
 */

import { createReadStream, createWriteStream } from "node:fs";
import { copyFile, mkdir, readFile, readdir, rm, stat } from "node:fs/promises";
import { dirname, join, posix, resolve, sep } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pathToFileURL } from "node:url";

const send = fetch;
const { parse } = JSON;

/** The `type` in the JSON of a file, as the platform documents. */
const FILE_TYPE = "PipedreamProjectFile";

/**
 * Create `$.files`.
 *
 * @param {string} folder the folder of the files; created at the first write
 * @returns {{open: (path: string) => File, openDescriptor: (descriptor: any) => File, dir: (path?: string) => AsyncGenerator<Entry>}}
 */
export function createFileStore(folder) {
  return {
    open: (path) => new File(folder, path),
    openDescriptor: (descriptor) => new File(folder, descriptor?.path),
    dir: (path = ".") => listing(folder, path),
  };
}

/**
 * Whether JSON may hold a file that a step exported.
 *
 * @param {string} text
 */
export function hasFiles(text) {
  return text.includes(`"${FILE_TYPE}"`);
}

/**
 * Parse JSON in which a file that a step exported is a file of the store again, as on the platform.
 *
 * @param {string} text
 * @param {string | null} folder the folder of the files; null keeps their descriptions
 * @returns {any}
 */
export function parseWithFiles(text, folder) {
  if (folder === null || !hasFiles(text)) return parse(text);
  return parse(text, (_, value) => {
    const isFile = value !== null && typeof value === "object" && value.type === FILE_TYPE && typeof value.path === "string" && value.path;
    return isFile ? new File(folder, value.path) : value;
  });
}

/** A file of the store, which may not exist yet. */
class File {
  #path;

  /**
   * @param {string} folder
   * @param {any} path relative to the store's root
   */
  constructor(folder, path) {
    if (typeof path !== "string" || !path) throw new TypeError("The path of a file in the file store must be a text.");
    this.#path = resolvePath(folder, path);
    this.path = posix.normalize(path.replace(/^\/+/, ""));
  }

  async delete() {
    await rm(this.#path, { recursive: true, force: true });
  }

  async createReadStream() {
    await stat(this.#path); // a missing file fails now, not in the stream
    return createReadStream(this.#path);
  }

  /** @returns {Promise<import("node:stream").Writable>} */
  async createWriteStream() {
    await mkdir(dirname(this.#path), { recursive: true });
    return createWriteStream(this.#path);
  }

  /**
   * @param {BufferEncoding} [encoding]
   * @param {number} [start]
   * @param {number} [end]
   */
  async toEncodedString(encoding = "utf8", start, end) {
    return (await readFile(this.#path)).toString(encoding, start, end);
  }

  // parity[file-url]: the platform returns a public link that works for 30 minutes; pdkernel returns a file: URL
  async toUrl() {
    return pathToFileURL(this.#path).href;
  }

  /** @param {string} local */
  async toFile(local) {
    await mkdir(dirname(resolve(local)), { recursive: true });
    await copyFile(this.#path, local);
  }

  async toBuffer() {
    return readFile(this.#path);
  }

  /** @param {any} stream */
  async fromReadableStream(stream) {
    await pipeline(stream, await this.createWriteStream());
    return this;
  }

  /** @param {string} local */
  async fromFile(local) {
    await mkdir(dirname(this.#path), { recursive: true });
    await copyFile(local, this.#path);
    return this;
  }

  /**
   * @param {string | URL} url
   * @param {RequestInit} [options]
   */
  async fromUrl(url, options) {
    const response = await send(url, options);
    if (!response.ok) throw new Error(`${url} responded with status code ${response.status}.`);
    return this.fromReadableStream(response.body ? Readable.fromWeb(/** @type {any} */ (response.body)) : Readable.from([]));
  }

  toJSON() {
    return { type: FILE_TYPE, path: this.path };
  }
}

/** An entry of a folder of the store. */
class Entry {
  #isFolder;

  /**
   * @param {string} path
   * @param {import("node:fs").Stats} stats
   */
  constructor(path, stats) {
    this.#isFolder = stats.isDirectory();
    this.path = path;
    this.name = posix.basename(path);
    this.size = stats.size;
    this.modifiedAt = stats.mtime;
  }

  isDirectory() {
    return this.#isFolder;
  }

  isFile() {
    return !this.#isFolder;
  }
}

/**
 * Yield the entries of a folder of the store, sorted by name; a root that does not exist yet is empty.
 *
 * @param {string} folder
 * @param {string} path
 * @returns {AsyncGenerator<Entry>}
 */
async function* listing(folder, path) {
  const place = resolvePath(folder, path);
  const isRoot = place === resolve(folder);
  const names = await readdir(place).catch((error) => {
    if (error.code === "ENOENT" && isRoot) return [];
    throw error;
  });
  for (const name of names.sort()) {
    yield new Entry(isRoot ? name : posix.join(path.replace(/^\/+/, ""), name), await stat(join(place, name)));
  }
}

/**
 * Return the absolute path of *path* in the store. Throws an error for a path outside of the store.
 *
 * @param {string} folder
 * @param {string} path
 */
function resolvePath(folder, path) {
  const root = resolve(folder);
  const place = resolve(root, path.replace(/^\/+/, ""));
  if (place !== root && !place.startsWith(root + sep)) {
    throw new Error(`${path} is outside of the file store: paths are relative to the root of the store.`);
  }
  return place;
}
