// Records {{what}}, so that this workflow can be compared with the same workflow elsewhere.
// Written by `pdkernel migrate record`, which also removes it. It imports no package, and changes nothing in the workflow:
// an error is swallowed and counted, after LIMIT_MS it gives up, and after UNTIL it does nothing.
// Secrets are replaced before anything leaves the step: see `redact`.
const PART = {{part}};
const WORKFLOW = {{workflow}};
const VERSION = {{version}};
const UNTIL = {{until}};
const LIMIT_MS = 2000;
const MAX_CHARACTERS = {{max_characters}};
const SAMPLE = {{sample}}; // every: one run of so many; first_a_day: so many runs a day, or null
const SINK = {{sink}}; // the token only permits to add records
const REDACTED_PATHS = {{paths}};
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
      result = { recorded: false, error: String(error?.name ?? "Error") };
    } finally {
      clearTimeout(timer);
      stop.abort();
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
  const kept = redact(shrink(whole), findSecrets(props, whole));
  const content = PART === "start" ? { event: kept.event, context: kept.context } : { steps: kept.steps };
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
    ...content,
  };
  const answer = await (SINK.url ? post(entry, signal) : store(props.pd_record_store, entry, now));
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

async function post(entry, signal) {
  const response = await fetch(SINK.url, {
    method: "POST",
    headers: { "content-type": "application/json", "x-pdkernel-token": SINK.token },
    body: JSON.stringify(entry),
    signal,
  });
  if (!response.ok) throw Object.assign(new Error("not stored"), { name: `Status${response.status}` });
  return (await response.json()).recorded !== false;
}

/** Adds the entry to the data store, as long as the counts there permit it. */
async function store(records, entry, now) {
  if (PART === "start") {
    const total = (await records.get("count")) ?? 0;
    const today = (await records.get(`count/${WORKFLOW}/${now.slice(0, 10)}`)) ?? 0;
    if (total >= SINK.max_runs || (SAMPLE.first_a_day !== null && today >= SAMPLE.first_a_day)) return false;
    await records.set("count", total + 1);
    await records.set(`count/${WORKFLOW}/${now.slice(0, 10)}`, today + 1);
  }
  await records.set(`record/${entry.run}/${PART}`, JSON.stringify(entry));
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
const CREDENTIALS = [{{credentials}}];
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

/** A text in the encodings in which it may occur. */
function encodings(text) {
  const bytes = Buffer.from(text, "utf8");
  const wide = Buffer.from(text, "utf16le");
  const url = encodeURIComponent(text);
  const strict = url.replace(/[!'()*]/g, (letter) => `%${letter.charCodeAt(0).toString(16).toUpperCase()}`);
  const json = JSON.stringify(text).slice(1, -1);
  const ascii = json.replace(/[^\x00-\x7f]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const hex = bytes.toString("hex");
  const html = text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
  const lower = (each) => each.replace(/%../g, (code) => code.toLowerCase());
  const forms = [text, url, strict, lower(url), lower(strict), strict.replace(/%20/g, "+"), url.replace(/%20/g, "+")];
  forms.push(strict.replace(/%2F/g, "/"), new URLSearchParams({ a: text }).toString().slice(2), encodeURI(text));
  forms.push(json, ascii, JSON.stringify(json).slice(1, -1), JSON.stringify(ascii).slice(1, -1), json.replace(/\//g, "\\/"), text.replace(/\\/g, "\\\\").replace(/'/g, "\\'"));
  forms.push(html, html.replace(/'/g, "&#39;"), html.replace(/'/g, "&#x27;"), [...text].reverse().join(""));
  forms.push(hex, hex.toUpperCase(), hex.replace(/../g, "%$&"), hex.toUpperCase().replace(/../g, "%$&"));
  forms.push(hex.replace(/../g, "\\x$&"), hex.match(/../g).join(" "), hex.match(/../g).join(":"));
  forms.push(wide.toString("hex"), wide.toString("base64").replace(/=+$/, ""));
  for (let offset = 0; offset < 3; offset += 1) {
    // only the letters that do not depend on the bytes before and after the text
    const letters = Buffer.concat([Buffer.alloc(offset), bytes]).toString("base64");
    const part = letters.slice(Math.ceil((8 * offset) / 6), Math.floor((8 * (offset + bytes.length)) / 6));
    forms.push(part, part.replace(/\+/g, "-").replace(/\//g, "_"), encodeURIComponent(part));
    forms.push(part.replace(/.{76}/g, "$&\n"), part.replace(/.{64}/g, "$&\n"));
  }
  forms.push(Buffer.from(bytes.toString("base64")).toString("base64").replace(/=+$/, ""), base32(bytes));
  return forms.filter((form) => form.length >= MIN_CHARACTERS);
}

function base32(bytes) {
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, "0")).join("");
  return (bits.match(/.{5}/g) ?? []).map((five) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[parseInt(five, 2)]).join("");
}

/** A copy of the value with MARK in place of secrets: by name of field or header, by path, by value, and by form. */
function redact(value, { values, short }) {
  const paths = new Map();
  for (const path of REDACTED_PATHS) {
    at(value, path, (parent, key) => paths.set(parent, (paths.get(parent) ?? new Set()).add(key)));
  }
  const texts = [];
  visit(value, (key, each) => texts.push(key, typeof each === "string" ? each : ""));
  const blob = texts.join("\n");
  const forms = new Set(values.flatMap(encodings).filter((form) => blob.includes(form)));
  const ordered = [...forms].sort((one, other) => other.length - one.length);
  const numbers = new Set(values);

  const ends = Date.now() + LIMIT_MS / 2; // a timer cannot stop a search
  const text = (found) => {
    if (Date.now() > ends) throw Object.assign(new Error("the search takes too long"), { name: "TimeoutError" });
    if (short.has(found)) return MARK;
    let clean = found;
    for (const form of ordered) if (clean.includes(form)) clean = clean.replaceAll(form, MARK);
    for (const form of CREDENTIALS) clean = clean.replace(form, MARK);
    clean = clean
      .replace(/\b(Bearer|Basic|Token) +[^\s"',;]{8,}/gi, `$1 ${MARK}`)
      .replace(/(:\/\/[^\s/:@]{1,256}:)[^\s/@]{1,256}@/g, `$1${MARK}@`);
    if (!/pass|pwd|secret|token|key|credential|auth|cookie|session|signature/i.test(clean)) return clean;
    const named = (whole, start, name, value, end) => (isSecretKey(name) ? `${start}${MARK}${end ?? ""}` : whole);
    return clean
      .replace(/((?:\\?["'])([\w.-]{1,64})(?:\\?["'])\s*:\s*")((?:[^"\\]|\\.)*)(")/g, named)
      .replace(/((?:\\?["'])([\w.-]{1,64})(?:\\?["'])\s*:\s*(?:'|\\"))(.{0,512}?)('|\\")/g, named)
      .replace(/((?:^|[^\w.-])([\w.-]{1,64})\s{0,4}[=:]\s{0,4})([^\s&"'\\,;}\])]+)()/g, named);
  };
  // the bytes of a Buffer, in which a text is not visible
  const isSecretBytes = (list) =>
    list.length >= MIN_CHARACTERS &&
    list.every((each) => Number.isInteger(each) && each >= 0 && each < 256) &&
    ["utf8", "utf16le"].some((encoding) => {
      const inside = Buffer.from(list).toString(encoding);
      return values.some((secret) => inside.includes(secret)) || text(inside) !== inside;
    });
  const hide = (each) => (each === null || each === "" || typeof each === "boolean" ? each : MARK);
  const clean = (each) => {
    if (typeof each === "string") return text(each);
    if (typeof each === "number") return numbers.has(String(each)) ? MARK : each;
    if (each === null || typeof each !== "object") return each;
    if (Array.isArray(each)) {
      if (isSecretBytes(each)) return [MARK];
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
