// Hands out records of data stores, and files, page by page, to `pdkernel migrate data`. It changes nothing.
// Delete the workflow when the data is saved: the step reads whole stores for every caller with the token.
const TOKEN = "{{token}}";
const STORES = {{stores}};
const MAX_RECORDS = 2000;
const MAX_FILES = 1000;
const MAX_CHARACTERS = 1_000_000;
const MAX_MILLISECONDS = 15_000;
const READ_AT_ONCE = 20;

export default defineComponent({
  props: {
{{props}}
  },
  async run({ steps, $ }) {
    const { headers = {}, body } = steps.trigger.event;
    const answer = (status, content) =>
      $.respond({ status, headers: { "content-type": "application/json" }, body: JSON.stringify(content) });
    if (headers["x-pdkernel-token"] !== TOKEN) return answer(403, { error: "wrong token" });
    const request = typeof body === "string" ? JSON.parse(body) : (body ?? {});
    if (request.store !== undefined) {
      const store = this[STORES[request.store]];
      return store ? answer(200, await pageOfRecords(store, request)) : answer(404, { error: "no such store" });
    }
    if (request.file !== undefined) return answer(200, await partOfFile($.files.open(request.file), request));
    return answer(200, await pageOfFiles($.files, request));
  },
});

/** Keys are sorted, so that a page begins after the last key of the page before, whatever was added in between. */
async function pageOfRecords(store, { after = null }) {
  const keys = (await store.keys()).sort();
  const ends = Date.now() + MAX_MILLISECONDS;
  const records = [];
  let at = after === null ? 0 : keys.findIndex((key) => key > after);
  if (at < 0) at = keys.length;
  let size = 0;
  let next = null;
  while (at < keys.length && next === null) {
    const some = keys.slice(at, at + READ_AT_ONCE);
    const values = await Promise.all(some.map((key) => store.get(key)));
    for (const [index, key] of some.entries()) {
      at += 1;
      if (values[index] !== undefined) {
        records.push([key, values[index]]);
        size += key.length + JSON.stringify(values[index]).length;
      }
      const isFull = records.length >= MAX_RECORDS || size >= MAX_CHARACTERS || Date.now() > ends;
      if (isFull && at < keys.length) {
        next = key;
        break;
      }
    }
  }
  return { total: keys.length, records, next };
}

async function pageOfFiles(store, { after = null }) {
  const files = [];
  const folders = [undefined];
  while (folders.length) {
    for await (const entry of store.dir(folders.pop())) {
      if (entry.isDirectory()) folders.push(entry.path);
      else files.push({ path: entry.path, size: entry.size });
    }
  }
  files.sort((one, other) => (one.path < other.path ? -1 : 1));
  const left = files.filter(({ path }) => after === null || path > after);
  const page = left.slice(0, MAX_FILES);
  return { total: files.length, files: page, next: left.length > page.length ? page.at(-1).path : null };
}

/** A large file is answered by its public link, if it has one. */
async function partOfFile(file, { offset = 0, size = 0 }) {
  const part = Math.floor(MAX_CHARACTERS * 0.7);
  if (size > part) {
    const url = await file.toUrl();
    if (url.startsWith("https:")) return { url };
  }
  const content = await file.toBuffer();
  return { content: content.subarray(offset, offset + part).toString("base64"), size: content.length };
}
