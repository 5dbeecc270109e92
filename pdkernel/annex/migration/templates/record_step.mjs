// Records {{what}}, so that this workflow can be compared with the same workflow elsewhere.
// Written by `pdkernel migrate record`, which also removes it. It imports no package, and changes nothing in the workflow:
// an error is swallowed and counted, after LIMIT_MS it gives up, and after UNTIL it does nothing.
// Secrets are replaced before anything leaves the step: see `redact`.
const PART = {{part}};
const WORKFLOW = {{workflow}};
const VERSION = {{version}};
const BRANCHES = {{branches}}; // those with a recording step at their end
const UNTIL = {{until}};
const LIMIT_MS = 2000;
const MAX_CHARACTERS = {{max_characters}};
const SAMPLE = {{sample}}; // every: one run of so many; first_a_day: so many runs a day, or null
const SINK = {{sink}}; // the token only permits to add records
const REDACTED_PATHS = {{paths}};
const MAX_ANSWER = 1000;
const START_STEP = "pd_record_start";

export default defineComponent({
  props: {
{{props}}
  },
  async run({ steps, $ }) {
    let timer;
    const memory = (globalThis.pdkernelRecord ??= { errors: 0, day: "", runs: 0 });
    const stop = new AbortController();
    const limit = new Promise((_, reject) => {
      timer = setTimeout(() => reject(Object.assign(new Error("2 s are over"), { name: "TimeoutError" })), LIMIT_MS);
    });
    let result;
    try {
      result = await Promise.race([record(this, steps, memory, stop.signal), limit]);
    } catch (error) {
      memory.errors += 1;
      result = { recorded: false, error: String(error?.code ?? error?.name) };
      stop.abort();
    } finally {
      clearTimeout(timer);
    }
{{result}}
  },
});

async function record(props, steps, memory, signal) {
  const { event, context = {} } = steps.trigger;
  const now = new Date().toISOString();
  if (now >= UNTIL) return { recorded: false };
  if (PART === "start" ? !isSampled(context, memory, now) : !steps[START_STEP]?.$return_value?.recorded) {
    return { recorded: false };
  }
  const own = Object.entries(steps).filter(([name]) => name !== "trigger" && !name.startsWith("pd_record_"));
  const whole = { event, context, steps: PART === "start" ? {} : Object.fromEntries(own) };
  const secrets = findSecrets(props, whole);
  const { event: input, steps: exports } = shrink(whole);
  const content = redact(PART === "start" ? { event: input, context } : { steps: exports }, secrets);
  const lost = memory.errors;
  const entry = {
    format: "pdkernel-record/1",
    part: PART,
    run: String(context.trace_id ?? context.id),
    workflow: WORKFLOW ?? context.workflow_id,
    version: VERSION,
    at: now,
    lost,
    first_a_day: SAMPLE.first_a_day,
    branches: BRANCHES,
    ...content,
  };
  const answer = await (SINK.url ? post(JSON.stringify(entry), signal) : store(props.pd_record_store, entry));
  memory.errors -= lost;
  return { recorded: answer };
}

/** Whether the run belongs to the sample; the sink counts again, because a process sees only its own runs. */
function isSampled(context, memory, now) {
  let hash = 0;
  for (const letter of String(context.trace_id ?? context.id)) hash = (hash * 31 + letter.charCodeAt(0)) >>> 0;
  if (hash % SAMPLE.every !== 0) return false;
  if (memory.day !== now.slice(0, 10)) Object.assign(memory, { day: now.slice(0, 10), runs: 0 });
  memory.runs += 1;
  return SAMPLE.first_a_day === null || memory.runs <= SAMPLE.first_a_day;
}

/** Sends the entry in one request, which follows no redirect; whether the receiver has stored it. */
async function post(body, signal, agent) {
  // not `fetch`, which takes 40 ms to load and twice the time of each request
  const name = SINK.url.startsWith("https:") ? "node:https" : "node:http";
  const { request } = process.getBuiltinModule?.(name) ?? (await import(name)); // the import loads `fetch`, too
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body), "x-pdkernel-token": SINK.token };
  return new Promise((resolve, reject) => {
    const sent = request(SINK.url, { method: "POST", headers, signal, agent }, (response) => {
      let answer = "";
      response.setEncoding("utf8");
      response.on("error", reject).on("data", (part) => {
        answer += part;
        if (answer.length > MAX_ANSWER) sent.destroy(Object.assign(new Error("the answer is too long"), { name: "LongAnswer" }));
      });
      // "close", too: only then the kept connection no longer counts as something that the step has left running
      let missing = 2;
      const finish = () => {
        missing -= 1;
        if (missing > 0) return;
        const stored = response.statusCode === 200 ? parse(answer)?.recorded : undefined;
        if (typeof stored === "boolean") resolve(stored);
        else reject(Object.assign(new Error("not stored"), { name: `Status${response.statusCode}` }));
      };
      response.on("end", finish);
      sent.on("close", finish);
    });
    sent.on("error", (error) => {
      // the receiver has closed a connection that was kept from an earlier run
      if (sent.reusedSocket && error.code === "ECONNRESET") post(body, signal, false).then(resolve, reject);
      else reject(error);
    });
    sent.end(body);
  });
}

/** Adds the entry to the data store, as long as the counts there permit it. */
async function store(records, entry) {
  const writes = [[`record/${entry.run}/${PART}`, JSON.stringify(entry)]];
  if (PART === "start") {
    const day = `count/${entry.workflow}/${entry.at.slice(0, 10)}`;
    const [total, today] = (await Promise.all([records.get("count"), records.get(day)])).map((count) => count ?? 0);
    if (total >= SINK.max_runs || (SAMPLE.first_a_day !== null && today >= SAMPLE.first_a_day)) return false;
    writes.push(["count", total + 1], [day, today + 1]);
  }
  await Promise.all(writes.map(([key, value]) => records.set(key, value)));
  return true;
}

/** The values without the largest exports, until the JSON of the rest is within MAX_CHARACTERS. */
function shrink({ event, context, steps }) {
  const sizes = Object.entries(steps).map(([name, value]) => [name, JSON.stringify(value ?? null).length]);
  const eventSize = JSON.stringify(event ?? null).length;
  const kept = { ...steps };
  let size = sizes.reduce((sum, [, each]) => sum + each, 0);
  for (const [name, each] of sizes.sort((one, other) => other[1] - one[1])) {
    if (size <= MAX_CHARACTERS) break;
    kept[name] = { $pdkernel_omitted: each };
    size -= each;
  }
  return { event: eventSize > MAX_CHARACTERS ? { $pdkernel_omitted: eventSize } : event, context, steps: kept };
}

const MARK = {{mark}};
const MIN_CHARACTERS = 8;
const MAX_SECRETS = 300; // a record with more is not kept: the search for them would take too long
const SECRET_FIELD = {{field}};
const SECRET_HEADER = {{header}};
const SECRET_NAME = {{name}};
const CREDENTIALS = /{{credentials}}/;
const ALL_CREDENTIALS = new RegExp(CREDENTIALS, "g");
const GENERAL = /\b(?:Bearer|Basic|Token) +[^\s"',;]{8}|:\/\/[^\s/:@]{1,256}:/i; // what `redact` finds besides
const NAMED = /pass|pwd|secret|token|key|credential|auth|cookie|session|signature/i;
// variables of the machine, which are not secrets
const PLAIN_VARIABLES =
  /^(PATH|PWD|HOME|LANG|LC_\w+|TZ|SHLVL|TMPDIR|NODE_(PATH|ENV|OPTIONS|VERSION|EXTRA_CA_CERTS)|LD_LIBRARY_PATH|AWS_(REGION|DEFAULT_REGION|EXECUTION_ENV|LAMBDA_(?!METADATA_TOKEN)\w+)|LAMBDA_\w+|PIPEDREAM_(?!\w*(TOKEN|KEY|SECRET))\w+|_\w*)$/;

const isSecretKey = (key) => typeof key === "string" && (SECRET_FIELD.test(key) || SECRET_HEADER.test(key.toLowerCase()));

/** Values to search for everywhere: environment variables, accounts of this step, secret fields, and the paths of --redact. */
function findSecrets(props, whole) {
  const found = new Set();
  const short = new Set();
  const add = (value, least = MIN_CHARACTERS) => {
    if (typeof value === "number" || typeof value === "bigint") value = String(value);
    if (typeof value !== "string") return;
    const text = value.trim();
    if (text.length >= least && !text.includes(MARK)) found.add(value), found.add(text);
  };
  const addAll = (value, least) => {
    if (value !== null && typeof value === "object") Object.values(value).forEach((each) => addAll(each, least));
    else add(value, least);
  };
  for (const [name, value] of Object.entries(process.env)) {
    if (PLAIN_VARIABLES.test(name) || typeof value !== "string") continue;
    add(value);
    if (value.length >= 4 && value.length < MIN_CHARACTERS && SECRET_NAME.test(name)) short.add(value);
    value.split("\n").forEach((line) => add(line, 16));
    visit(parse(value), (key, each) => isSecretKey(key) && addAll(each));
  }
  for (const prop of Object.keys(props)) addAll(props[prop]?.$auth);
  visit(whole, (key, value, parent) => {
    const isNamed = key === "value" && (isSecretKey(parent.name) || isSecretKey(parent.key));
    const isHeader = Array.isArray(parent) && Number(key) % 2 === 1 && SECRET_HEADER.test(String(parent[key - 1]).toLowerCase());
    if (isSecretKey(key) || isNamed || isHeader) {
      addAll(value);
      // "Bearer x": x may be used alone
      if (typeof value === "string") value.split(/[\s,;]+/).forEach((word) => add(word.replace(/^[\w-]+=/, "")));
    }
    if (typeof value === "string") visit(parse(value), (inner, each) => isSecretKey(inner) && addAll(each));
  });
  for (const path of REDACTED_PATHS) at(whole, path, (parent, key) => addAll(parent[key], MIN_CHARACTERS));
  if (found.size > MAX_SECRETS) throw Object.assign(new Error("too many secrets"), { name: "TooManySecrets" });
  return { values: [...found], short };
}

function parse(text) {
  try {
    return /^\s*[[{]/.test(text) ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

function visit(value, see) {
  if (value === null || typeof value !== "object") return;
  for (const key of Object.keys(value)) {
    see(key, value[key], value);
    visit(value[key], see);
  }
}

/** Calls see(parent, key) for each place of the path, whose part "*" stands for any key. */
function at(value, [part, ...rest], see) {
  if (value === null || typeof value !== "object") return;
  for (const key of part === "*" ? Object.keys(value) : [part]) {
    if (!(key in value)) continue;
    if (rest.length) at(value[key], rest, see);
    else see(value, key);
  }
}

/** A text in the encodings in which it may occur in *blob*; `decode` finds the others, which are long words. */
function encodings(text, blob) {
  const bytes = Buffer.from(text, "utf8");
  const hex = bytes.toString("hex");
  const wide = Buffer.from(text, "utf16le");
  const forms = [text, [...text].reverse().join(""), wide.toString("base64").replace(/=+$/, ""), wide.toString("hex"), base32(hex)];
  forms.push(text.toLowerCase(), text.toUpperCase(), text.normalize("NFC"), text.normalize("NFD"), bytes.toString("latin1"));
  const separate = (letters, before) => before + letters.match(/../g).join(before);
  for (const separator of [" ", ":"]) if (blob.includes(hex.slice(0, 2) + separator)) forms.push(separate(hex, separator).slice(1));
  const json = JSON.stringify(text).slice(1, -1);
  if (blob.includes("\\")) {
    const ascii = json.replace(/[^\x00-\x7f]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
    forms.push(json, ascii, JSON.stringify(json).slice(1, -1), JSON.stringify(ascii).slice(1, -1), json.replace(/\//g, "\\/"));
    forms.push(text.replace(/\\/g, "\\\\").replace(/'/g, "\\'"), separate(hex, "\\x"));
  }
  if (blob.includes("&")) {
    const html = text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
    forms.push(html, html.replace(/'/g, "&#39;"), html.replace(/'/g, "&#x27;"));
  }
  const parts = [];
  for (let offset = 0; offset < 3; offset += 1) {
    // only the letters that do not depend on the bytes before and after the text
    const letters = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
    const part = letters.slice(Math.ceil((8 * offset) / 6), Math.floor((8 * (offset + bytes.length)) / 6));
    parts.push(part, part.replace(/\+/g, "-").replace(/\//g, "_"));
    if (part.length > 64) forms.push(part.replace(/.{76}/g, "$&\n"), part.replace(/.{64}/g, "$&\n"));
  }
  forms.push(...parts);
  if (blob.includes("%")) {
    const whole = text.toWellFormed?.() ?? text;
    const url = encodeURIComponent(whole);
    const strict = url.replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
    const lower = (each) => each.replace(/%../g, (code) => code.toLowerCase());
    forms.push(url, strict, lower(url), lower(strict), strict.replace(/%20/g, "+"), url.replace(/%20/g, "+"), encodeURIComponent(strict));
    forms.push(strict.replace(/%2F/g, "/"), new URLSearchParams({ a: text }).toString().slice(2), encodeURI(whole));
    forms.push(separate(hex, "%"), separate(hex.toUpperCase(), "%"), ...parts.map(encodeURIComponent));
  }
  return forms.filter((form) => form.length >= MIN_CHARACTERS);
}

/** The bytes in base32, without the last letter, which depends on the bytes after them. */
function base32(hex) {
  const bits = hex.length * 4;
  const digits = (BigInt(`0x${hex}`) >> BigInt(bits % 5)).toString(32).padStart(Math.floor(bits / 5), "0");
  return digits.replace(/./g, (digit) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[parseInt(digit, 32)]);
}

/** Returns a function that yields the forms in a text: one pass for all forms, each of which is found by its first letters. */
function createSearch(forms, check) {
  const byStart = new Map();
  for (const form of forms) {
    const start = form.slice(0, MIN_CHARACTERS);
    const same = byStart.get(start);
    if (same) same.push(form);
    else byStart.set(start, [form]);
  }
  return function* (text) {
    for (let place = 0; place + MIN_CHARACTERS <= text.length; place += 1) {
      if (place % 4096 === 0) check();
      const same = byStart.get(text.substring(place, place + MIN_CHARACTERS));
      if (same) for (const form of same) if (text.startsWith(form, place)) yield form;
    }
  };
}

const WORD = /[A-Za-z0-9+/_-]{16,}(?:\r?\n[A-Za-z0-9+/_-]+)*/g;
const ESCAPES = [
  [/\\+(?:u\{?|x)([0-9a-f]{2,6})\}?/gi, 16],
  [/&#x([0-9a-f]{2,6});?/gi, 16],
  [/&#([0-9]{2,7});?/g, 10],
];
const BYTES = /(?:[%=][0-9a-f]{2}|=\r?\n)+/gi;

/** Texts that *text* is an encoding of, each with the part of the text that is encoded; null stands for the whole text. */
function* decode(text) {
  for (const [word] of text.matchAll(WORD)) {
    const letters = word.replace(/\s+/g, "");
    for (let offset = 0; offset < 4; offset += 1) yield [word, Buffer.from(letters.slice(offset), "base64")];
    for (const part of letters.match(/(?:[0-9a-f]{2}){8,}/gi) ?? []) yield [word, Buffer.from(part, "hex")];
  }
  for (const [escape, base] of ESCAPES) {
    if (escape.test(text)) {
      const letter = (whole, code) => (parseInt(code, base) < 0x110000 ? String.fromCodePoint(parseInt(code, base)) : whole);
      yield [null, Buffer.from(text.replace(escape, letter))];
    }
    escape.lastIndex = 0;
  }
  if (/\\["'\\/]/.test(text)) yield [null, Buffer.from(text.replace(/\\(["'\\/])/g, "$1"))];
  if (text.search(BYTES) >= 0) {
    yield [null, Buffer.from(text.replace(BYTES, (run) => Buffer.from(run.replace(/[%=]|\r?\n/g, ""), "hex").toString()))];
  }
}

/** A copy of the value with MARK in place of secrets: by name of field or header, by path, by value, and by form. */
function redact(value, { values, short }) {
  const paths = new Map();
  for (const path of REDACTED_PATHS) {
    at(value, path, (parent, key) => paths.set(parent, (paths.get(parent) ?? new Set()).add(key)));
  }
  const ends = performance.now() + LIMIT_MS / 2; // a timer cannot stop a search
  const check = () => {
    if (performance.now() > ends) throw Object.assign(new Error("the search takes too long"), { name: "TimeoutError" });
  };
  const texts = [];
  visit(value, (key, each) => texts.push(key, typeof each === "string" ? each : ""));
  const blob = texts.join("\n");
  const search = createSearch(new Set(values.flatMap((each) => encodings(each, blob))), check);
  // whether a secret is in the text, or in what the text is an encoding of
  const isSecret = (text, depth = 0) =>
    !search(text).next().done || CREDENTIALS.test(text) || (depth < 3 && isEncoded(text, depth).length > 0);
  const isEncoded = (text, depth) => {
    const found = [];
    for (const [part, bytes] of decode(text)) {
      if (isCompressed(bytes) || isSecret(bytes.toString(), depth + 1)) found.push(part);
      if (found.at(-1) === null) break;
    }
    return found;
  };
  const ordered = [...new Set(search(blob))].sort((one, other) => other.length - one.length);
  const hasForm = GENERAL.test(blob) || CREDENTIALS.test(blob);
  const hasName = NAMED.test(blob);
  const numbers = new Set(values);

  const text = (found) => {
    check();
    if (short.has(found)) return MARK;
    let clean = found;
    for (const form of ordered) if (clean.includes(form)) clean = clean.replaceAll(form, MARK);
    if (hasForm) {
      clean = clean
        .replace(ALL_CREDENTIALS, MARK)
        .replace(/\b(Bearer|Basic|Token) +[^\s"',;]{8,}/gi, `$1 ${MARK}`)
        .replace(/(:\/\/[^\s/:@]{1,256}:)[^\s/@]{1,256}@/g, `$1${MARK}@`);
    }
    for (const part of clean.length < MIN_CHARACTERS ? [] : isEncoded(clean, 0)) {
      clean = part === null ? MARK : clean.replaceAll(part, MARK);
    }
    if (!hasName || !NAMED.test(clean)) return clean;
    const named = (whole, start, name, value, end) => (isSecretKey(name) ? `${start}${MARK}${end ?? ""}` : whole);
    return clean
      .replace(/((?:\\?["'])([\w.-]{1,64})(?:\\?["'])\s*:\s*")((?:[^"\\]|\\.)*)(")/g, named)
      .replace(/((?:\\?["'])([\w.-]{1,64})(?:\\?["'])\s*:\s*(?:'|\\"))(.{0,512}?)('|\\")/g, named)
      .replace(/((?:^|[^\w.-])([\w.-]{1,64})\s{0,4}[=:]\s{0,4})([^\s&"'\\,;}\])]+)()/g, named);
  };
  // the bytes of a Buffer, in which a text is not visible, and a text that is divided into the items of a list
  const isSecretList = (list) => {
    if (list.length < 2) return false;
    if (list.every((each) => typeof each === "string")) {
      const has = (each) => !search(each).next().done;
      return has(list.join("")) && has(list.map(text).join(""));
    }
    if (list.length < MIN_CHARACTERS || !list.every((each) => Number.isInteger(each) && each >= 0 && each < 256)) return false;
    const bytes = Buffer.from(list);
    return isCompressed(bytes) || isSecret(bytes.toString("utf8")) || isSecret(bytes.toString("utf16le"));
  };
  const hide = (each) => (each === null || each === "" || typeof each === "boolean" ? each : MARK);
  const clean = (each) => {
    if (typeof each === "string") return text(each);
    if (typeof each === "number") return numbers.has(String(each)) ? MARK : each;
    if (each === null || typeof each !== "object") return each;
    if (Array.isArray(each)) {
      if (isSecretList(each)) return [MARK];
      return each.map((item, place) =>
        paths.get(each)?.has(String(place)) || (place % 2 === 1 && SECRET_HEADER.test(String(each[place - 1]).toLowerCase()))
          ? hide(item)
          : clean(item),
      );
    }
    const isNamed = isSecretKey(each.name) || isSecretKey(each.key);
    return Object.fromEntries(
      Object.entries(each).map(([key, item]) => [
        text(key),
        isSecretKey(key) || (isNamed && key === "value") || paths.get(each)?.has(key) ? hide(item) : clean(item),
      ]),
    );
  };
  return clean(value);
}

/** Whether the bytes are those of gzip or zlib, in which nothing can be searched. */
function isCompressed(bytes) {
  return bytes.length > 18 && ((bytes[0] === 0x1f && bytes[1] === 0x8b && bytes[2] === 8) || (bytes[0] === 0x78 && bytes[1] === 0x9c));
}
