"""Attacks of Node.js steps: what a run leaves in its process, its files and on the machine is not seen by runs of others."""

from __future__ import annotations

from tests.isolation.attacks import Attack, AttackLanguage, Attempt
from tests.isolation.conftest import AttackTests

NODE = AttackLanguage(
    "node",
    r"""
import asyncHooks, { AsyncLocalStorage } from "node:async_hooks";
import buffer from "node:buffer";
import childProcess from "node:child_process";
import cluster from "node:cluster";
import crypto from "node:crypto";
import diagnostics from "node:diagnostics_channel";
import dgram from "node:dgram";
import dns from "node:dns";
import { EventEmitter } from "node:events";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import inspector from "node:inspector";
import module, { createRequire } from "node:module";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { PerformanceObserver, performance } from "node:perf_hooks";
import tls from "node:tls";
import util from "node:util";
import v8 from "node:v8";
import vm from "node:vm";
import { Worker, setEnvironmentData, getEnvironmentData } from "node:worker_threads";

const require = createRequire(import.meta.url);
const { env } = process; // pdkernel reads the names of variables in the source
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** A request to the server of the test. */
function get(url, token) {
  return new Promise((done, failed) => {
    http.get(url, { headers: { "x-token": token } }, (response) => {
      let text = "";
      response.on("data", (part) => (text += part)).on("end", () => done(JSON.parse(text).token));
    }).on("error", failed);
  });
}

/** The first bytes that a listening socket sends, or that it was reached. */
function answers(address) {
  return new Promise((done, failed) => {
    const client = net.connect(address).setTimeout(300);
    client.on("error", failed);
    client.on("data", (data) => (done(String(data)), client.destroy()));
    client.on("timeout", () => (done("connected"), client.destroy()));
    client.on("close", () => done("closed"));
  });
}

/** The processes with a text in their arguments. */
function processes(text) {
  return fs.readdirSync("/proc").filter((name) => {
    try {
      return /^\d+$/.test(name) && fs.readFileSync(`/proc/${name}/cmdline`, "utf8").includes(text);
    } catch {
      return false;
    }
  });
}

/** Starts a program that leaves the group, the session and the environment of its parent. */
function daemon(script, ...args) {
  childProcess.spawnSync("/bin/bash", ["-c", '(setsid /bin/bash -c "$0" "$@" &)', script, ...args], { stdio: "ignore", env: {} });
}

function ownFile(name) {
  fs.writeFileSync(name, "own");
  return name;
}

function ownFolder(name) {
  fs.mkdirSync(`${name}/own`, { recursive: true });
  return name;
}

/** Writes a file in a folder, and removes it. */
function writes(folder, mark) {
  const file = path.join(folder, mark);
  fs.writeFileSync(file, "");
  fs.rmSync(file);
  return true;
}

async function work(token, targets) {
  fs.writeFileSync("/tmp/work.txt", token);
  const file = fs.readFileSync("/tmp/work.txt", "utf8");
  fs.rmSync("/tmp/work.txt");
  Reflect.get(process, "env").WORK = token;
  const emitter = new EventEmitter();
  let emitted = null;
  emitter.on("work", (value) => (emitted = value));
  emitter.emit("work", token);
  const hash = crypto.createHash("sha256").update("work").digest("hex").slice(0, 8);
  const storage = new AsyncLocalStorage();
  console.log(token);
  return {
    json: JSON.parse(JSON.stringify({ token })),
    file,
    emitted,
    hash,
    environment: childProcess.execFileSync("printenv", ["WORK"], { encoding: "utf8" }).trim(),
    answer: await get(targets.url, token),
    fetched: (await (await fetch(targets.url, { headers: { "x-token": token } })).json()).token,
    promised: await Promise.all([Promise.resolve(token)]).then(([value]) => value),
    stored: storage.run(token, () => storage.getStore()),
    text: `a-b-${"c".repeat(2)}`.split("-").map((part) => part.toUpperCase()).join(""),
    sorted: Object.keys({ b: 1, a: 2 }).sort(),
    date: new Date(0).toISOString(),
    number: (1234.5).toLocaleString("en-US"),
    required: require("node:path").basename("/a/b"),
  };
}

FUNCTIONS
const FUNCTIONS = { NAMES };

export default defineComponent({
  async run({ steps }) {
    const { body } = steps.trigger.event;
    const { token, targets } = body;
    const [seen, reached, failed] = [{}, {}, {}];
    async function call(kind, number, place) {
      try {
        const value = await FUNCTIONS[`${kind}_${number}`]({ token, targets, ports: targets.ports, mark: targets.mark, place });
        if (kind === "own" || kind === "other") return value;
        return value ? util.inspect(value).slice(0, 2000) : null;
      } catch (error) {
        failed[`${kind} ${number}`] = String(error);
        return null;
      }
    }
    for (const number of body.plant) await call("plant", number);
    const done = await work(token, targets);
    if (body.wait) await sleep(150);
    for (const number of body.check) {
      seen[number] = await call("check", number);
      for (let left = body.plant.length ? 1000 : 0; left > 0 && !seen[number]; left -= 1) {
        await sleep(20); // a daemon of the run starts
        seen[number] = await call("check", number);
      }
    }
    for (const number of body.attempt) {
      seen[number] = await call("access", number, await call("own", number));
      const place = await call("other", number);
      reached[number] = place == null ? "a place that does not exist" : await call("access", number, place);
    }
    return { work: done, seen, reached, failed };
  },
});
""",
    "async function KIND_NUMBER({ token, targets, ports, mark, place }) {\nBODY\n}\n",
    {
        "json": {"token": "TOKEN"},
        "file": "TOKEN",
        "emitted": "TOKEN",
        "hash": "00e13ed7",
        "environment": "TOKEN",
        "answer": "TOKEN",
        "fetched": "TOKEN",
        "promised": "TOKEN",
        "stored": "TOKEN",
        "text": "ABCC",
        "sorted": ["a", "b"],
        "date": "1970-01-01T00:00:00.000Z",
        "number": "1,234.5",
        "required": "b",
    },
)

THIEVES = [
    Attack(
        "JSON.parse keeps what it reads",
        """
        const real = JSON.parse;
        globalThis.Reflect.parsed = [];
        JSON.parse = (text, ...more) => (Reflect.parsed.push(text), real(text, ...more));
        """,
        "Reflect.parsed",
    ),
    Attack(
        "JSON.stringify keeps what it writes",
        """
        const real = JSON.stringify;
        Reflect.written = [];
        JSON.stringify = (value, ...more) => (Reflect.written.push(util.inspect(value)), real(value, ...more));
        """,
        "Reflect.written",
    ),
    Attack(
        "EventEmitter.prototype.emit keeps events",
        """
        const real = EventEmitter.prototype.emit;
        Reflect.emitted = [];
        EventEmitter.prototype.emit = function (name, ...values) {
          if (typeof values[0] === "string") Reflect.emitted.push(values[0]);
          return real.call(this, name, ...values);
        };
        """,
        "Reflect.emitted",
    ),
    Attack(
        "process.stdout.write keeps what is printed",
        """
        const real = process.stdout.write;
        Reflect.printed = [];
        process.stdout.write = function (data, ...more) {
          Reflect.printed.push(String(data));
          return real.call(this, data, ...more);
        };
        """,
        "Reflect.printed?.length ? Reflect.printed : (console.log('printed'), null)",
    ),
    Attack(
        "console.log keeps what is printed",
        """
        const real = console.log;
        Reflect.logged = [];
        console.log = (...values) => (Reflect.logged.push(...values), real(...values));
        """,
        "Reflect.logged",
    ),
    Attack(
        "fs.writeFileSync keeps contents",
        """
        const real = fs.writeFileSync;
        Reflect.files = [];
        fs.writeFileSync = (name, data, ...more) => (Reflect.files.push(data), real(name, data, ...more));
        """,
        "Reflect.files",
    ),
    Attack(
        "http.request keeps headers",
        """
        const real = http.get;
        Reflect.requested = [];
        http.get = (url, options, ...more) => (Reflect.requested.push(options.headers), real(url, options, ...more));
        """,
        "Reflect.requested",
    ),
    Attack(
        "fetch keeps headers",
        """
        const real = globalThis.fetch;
        Reflect.fetched = [];
        globalThis.fetch = (url, options) => (Reflect.fetched.push(options?.headers), real(url, options));
        """,
        "Reflect.fetched",
    ),
    Attack(
        "Array.prototype.map keeps arrays",
        """
        const real = Array.prototype.map;
        Reflect.mapped = [];
        Array.prototype.map = function (...args) {
          if (Reflect.mapped.length < 50) Reflect.mapped.push(this.length);
          return real.apply(this, args);
        };
        """,
        "Reflect.mapped",
    ),
    Attack(
        "String.prototype.split keeps texts",
        """
        const real = String.prototype.split;
        Reflect.split = [];
        String.prototype.split = function (...args) {
          Reflect.split.push(String(this).slice(0, 99));
          return real.apply(this, args);
        };
        """,
        "Reflect.split",
    ),
    Attack(
        "Promise.prototype.then keeps promises",
        """
        const real = Promise.prototype.then;
        Reflect.promised = [token];
        Promise.prototype.then = function (...args) {
          if (Reflect.promised.length < 9) Reflect.promised.push(1);
          return real.apply(this, args);
        };
        """,
        "Reflect.promised",
    ),
    Attack(
        "Function.prototype.call keeps receivers",
        """
        const real = Function.prototype.call;
        Reflect.called = [token];
        Function.prototype.call = function (self, ...args) {
          if (Reflect.called.length < 9) Reflect.called.push(typeof self);
          return Reflect.apply(this, self, args);
        };
        """,
        "Reflect.called",
    ),
    Attack(
        "crypto.createHash keeps its use",
        """
        const real = crypto.createHash;
        Reflect.hashed = [];
        crypto.createHash = (...args) => (Reflect.hashed.push(args[0]), real(...args));
        """,
        "Reflect.hashed",
    ),
    Attack(
        "child_process.execFileSync keeps the environment",
        """
        const real = childProcess.execFileSync;
        Reflect.executed = [];
        childProcess.execFileSync = (...args) => (Reflect.executed.push(env.WORK), real(...args));
        """,
        "Reflect.executed",
    ),
    Attack(
        "Module._load keeps the names of modules",
        """
        const real = module._load;
        Reflect.loaded = [];
        module._load = (name, ...more) => (Reflect.loaded.push(name), real(name, ...more));
        """,
        "require('node:os') && Reflect.loaded",
    ),
    Attack(
        "a channel of diagnostics keeps requests",
        """
        Reflect.diagnosed = [];
        diagnostics.subscribe("http.client.request.start", ({ request }) => Reflect.diagnosed.push(request.getHeaders()));
        """,
        "Reflect.diagnosed",
    ),
    Attack(
        "a hook of async_hooks counts",
        """
        Reflect.hooked = [];
        asyncHooks.createHook({ init: (id, type) => Reflect.hooked.length < 99 && Reflect.hooked.push(type) }).enable();
        """,
        "Reflect.hooked",
        group="process",
    ),
]

STATE = [
    Attack(
        "a property of Object.prototype",
        "Object.defineProperty(Object.prototype, 'leftObject', { value: token, configurable: true })",
        "({}).leftObject",
    ),
    Attack(
        "a property of Array.prototype",
        "Object.defineProperty(Array.prototype, 'leftArray', { value: token })",
        "[].leftArray",
    ),
    Attack(
        "a property of String.prototype",
        "Object.defineProperty(String.prototype, 'leftText', { value: token })",
        "''.leftText",
    ),
    Attack(
        "a property of Function.prototype",
        "Object.defineProperty(Function.prototype, 'leftCode', { value: token })",
        "(() => 0).leftCode",
    ),
    Attack("a property of Promise.prototype", "Promise.prototype.leftPromise = token", "Promise.resolve().leftPromise"),
    Attack("a property of Error", "Error.left = token", "Error.left"),
    Attack(
        "Error.prepareStackTrace",
        "Error.prepareStackTrace = Object.assign((error) => error.stack, { token })",
        "Error.prepareStackTrace?.token",
    ),
    Attack("Error.stackTraceLimit", "Error.stackTraceLimit = 17", "Error.stackTraceLimit === 17"),
    Attack("a name in globalThis", "globalThis.left = token", "globalThis.left"),
    Attack(
        "a name in globalThis that cannot be removed",
        "Object.defineProperty(globalThis, 'leftFixed', { value: token })",
        "globalThis.leftFixed",
    ),
    Attack(
        "a symbol of the registry of symbols",
        "globalThis[Symbol.for('left')] = token",
        "globalThis[Symbol.for('left')]",
    ),
    Attack("a property of console", "console.left = token", "console.left"),
    Attack("a property of process", "process.left = token", "process.left"),
    Attack("a property of a built-in module", "fs.left = token", "fs.left"),
    Attack(
        "the iterator of arrays",
        """
        const real = Array.prototype[Symbol.iterator];
        Array.prototype[Symbol.iterator] = Object.assign(function () { return Reflect.apply(real, this, []) }, { token })
        """,
        "Array.prototype[Symbol.iterator].token",
    ),
    Attack(
        "a setter of Object.prototype",
        "Object.defineProperty(Object.prototype, 'leftSetter', { set() {}, get: () => token })",
        "({}).leftSetter",
    ),
    Attack(
        "Date.prototype.toLocaleString",
        "Date.prototype.toLocaleString = () => token",
        "new Date(0).toLocaleString().startsWith('tok-')",
    ),
    Attack(
        "the formats of Intl",
        """
        Intl.NumberFormat.left = token;
        Intl.DateTimeFormat.prototype.formatToParts = () => token
        """,
        "Intl.NumberFormat.left",
    ),
    Attack("Math.random", "Math.random = () => 0.177", "Math.random() === 0.177"),
    Attack(
        "a property of Buffer",
        """
        Buffer.left = token;
        Buffer.poolSize = 17777
        """,
        "Buffer.left ?? Buffer.poolSize === 17777",
    ),
    Attack(
        "the contents of the pool of buffers",
        "for (let count = 0; count < 3000; count += 1) Buffer.from(token.padEnd(40, '-' + token))",
        # joined here, since memory that the parser has freed, with the texts of this line, is in new buffers, too
        "Array.from({ length: 3000 }, () => Buffer.allocUnsafe(40).latin1Slice()).find((text) => text.includes(['tok', 'mallory'].join('-')))",
        group="process",
    ),
    Attack(
        "a module in the cache of require",
        "require.cache['/left.js'] = Object.assign(new module('/left.js'), { exports: token, loaded: true })",
        "require.cache['/left.js']?.exports",
    ),
    Attack("Module._extensions", "module._extensions['.left'] = () => token", "module._extensions['.left']"),
    Attack(
        "Module._resolveFilename",
        """
        const real = module._resolveFilename;
        module._resolveFilename = Object.assign(function (...args) { return Reflect.apply(real, this, args) }, { token })
        """,
        "module._resolveFilename.token",
    ),
    Attack("Module.globalPaths", "module.globalPaths.push('/left')", "module.globalPaths.includes('/left')"),
    Attack(
        "hooks of the module loader",
        "module.registerHooks?.({ resolve: (name, context, next) => name === 'left:module' ? { url: 'data:text/javascript,export default %22' + token + '%22', shortCircuit: true } : next(name, context) })",
        "(await import('left:' + 'module')).default",
    ),
    Attack(
        "a loaded module with state",
        """
        const url = 'data:text/javascript,export const kept = {}';
        (await import(url)).kept.token = token
        """,
        "(await import('data:text/javascript,export const kept = {}')).kept.token",
    ),
    Attack(
        "the agent of http",
        "http.globalAgent = Object.assign(new http.Agent({ keepAlive: true }), { token })",
        "http.globalAgent.token",
    ),
    Attack(
        "the options of the agent of https",
        "https.globalAgent.options.rejectUnauthorized = false",
        "https.globalAgent.options.rejectUnauthorized === false",
    ),
    Attack(
        "the dispatcher of fetch",
        """
        const key = Symbol.for('undici.globalDispatcher.1');
        const real = globalThis[key];
        Reflect.dispatcher = real;
        if (real) real.left = token
        """,
        "globalThis[Symbol.for('undici.globalDispatcher.1')]?.left",
    ),
    Attack(
        "dns.lookup",
        """
        const real = dns.lookup;
        dns.lookup = Object.assign((...args) => real(...args), { token })
        """,
        "dns.lookup.token",
    ),
    Attack("the order of dns", "dns.setDefaultResultOrder('ipv6first')", "dns.getDefaultResultOrder() === 'ipv6first'"),
    Attack("the servers of dns", "dns.setServers(['192.0.2.177'])", "dns.getServers().includes('192.0.2.177')"),
    Attack("the versions of TLS", "tls.DEFAULT_MIN_VERSION = 'TLSv1.1'", "tls.DEFAULT_MIN_VERSION === 'TLSv1.1'"),
    Attack(
        "the certificates of TLS",
        "tls.createSecureContext.token = token",
        "tls.createSecureContext.token",
    ),
    Attack(
        "the time-out of connections",
        "net.setDefaultAutoSelectFamilyAttemptTimeout(1777)",
        "net.getDefaultAutoSelectFamilyAttemptTimeout() === 1777",
    ),
    Attack(
        "the default of event listeners",
        "EventEmitter.defaultMaxListeners = 177",
        "EventEmitter.defaultMaxListeners === 177",
    ),
    Attack(
        "a listener of process",
        "process.on('beforeExit', Object.assign(() => {}, { token }))",
        "process.listeners('beforeExit').find((each) => each.token)?.token",
    ),
    Attack(
        "a listener of failures",
        "process.on('uncaughtExceptionMonitor', Object.assign(() => {}, { token }))",
        "process.listeners('uncaughtExceptionMonitor').find((each) => each.token)?.token",
    ),
    Attack(
        "a listener of warnings",
        "process.on('warning', Object.assign(() => {}, { token }))",
        "process.listeners('warning').find((each) => each.token)?.token",
    ),
    Attack("a variable of process.env", "env.LEFT = token", "env.LEFT"),
    Attack(
        "another object as process.env",
        "process.env = { ...env, LEFT_BEHIND: token }",
        "Reflect.get(process, 'env').LEFT_BEHIND",
    ),
    Attack("process.argv", "process.argv.push(token)", "process.argv.find((each) => each.startsWith('tok-'))"),
    Attack("process.execArgv", "process.execArgv.push('--left')", "process.execArgv.includes('--left')"),
    Attack("process.title", "process.title = 'left'", "process.title === 'left'"),
    Attack("the code of the exit", "process.exitCode = 17", "process.exitCode === 17"),
    Attack("data of worker threads", "setEnvironmentData('left', token)", "getEnvironmentData('left')"),
    Attack(
        "a store of AsyncLocalStorage",
        """
        Reflect.storage = new AsyncLocalStorage();
        Reflect.storage.enterWith(token)
        """,
        "Reflect.storage?.getStore() ?? (Reflect.storage?.run(token, () => 'kept'))",
    ),
    Attack(
        "a mark of performance",
        "performance.mark(token)",
        "performance.getEntriesByType('mark').map(({ name }) => name).find((name) => name.startsWith('tok-'))",
    ),
    Attack(
        "a context of vm",
        "Reflect.context = vm.createContext({ token })",
        "Reflect.context && vm.runInContext('token', Reflect.context)",
    ),
    Attack(
        "a registry of finalizers",
        """
        Reflect.finalizers = new FinalizationRegistry(() => {});
        Reflect.finalizers.register({}, token);
        Reflect.finalizers.token = token
        """,
        "Reflect.finalizers?.token",
    ),
    Attack(
        "memory of WebAssembly",
        """
        Reflect.memory = new WebAssembly.Memory({ initial: 1 });
        Buffer.from(Reflect.memory.buffer).write(token)
        """,
        "Reflect.memory && Buffer.from(Reflect.memory.buffer).toString('latin1', 0, 21)",
    ),
    Attack(
        "a shared buffer",
        """
        Reflect.shared = new SharedArrayBuffer(64);
        Buffer.from(Reflect.shared).write(token)
        """,
        "Reflect.shared && Buffer.from(Reflect.shared).toString('latin1', 0, 21)",
    ),
    Attack(
        "flags of V8",
        """
        v8.setFlagsFromString('--stack-trace-limit=17');
        v8.left = token
        """,
        "v8.left",
    ),
    Attack(
        "the option of util.inspect",
        "util.inspect.defaultOptions.maxStringLength = 1777",
        "util.inspect.defaultOptions.maxStringLength === 1777",
    ),
    Attack("the constructor of Buffer in another module", "buffer.kMaxLeft = token", "buffer.kMaxLeft"),
    Attack(
        "settings of cluster",
        "cluster.setupPrimary({ args: [token] })",
        "cluster.settings?.args?.find((each) => each.startsWith('tok-'))",
    ),
]

PROCESS = [
    Attack("the file mode mask", "process.umask(0o177)", "process.umask() === 0o177", group="process"),
    Attack("the working folder", "process.chdir('/usr')", "process.cwd() === '/usr'", group="process"),
    Attack("the priority", "os.setPriority(0, 17)", "os.getPriority(0) === 17", group="process"),
    Attack(
        "an open file",
        """
        Reflect.opened = fs.openSync('/tmp/left-open', 'w+');
        fs.writeSync(Reflect.opened, token)
        """,
        "fs.readdirSync('/proc/self/fd').filter((each) => fs.existsSync(`/proc/self/fd/${each}`) && fs.readlinkSync(`/proc/self/fd/${each}`).includes('left-open')).join()",
        group="process",
    ),
    Attack(
        "an interval",
        """
        Reflect.ticks = 0;
        setInterval(() => (Reflect.ticks += 1), 5)
        """,
        "Reflect.ticks > 2",
        group="later",
    ),
    Attack(
        "an interval that does not hold the process",
        "setInterval(() => fs.writeFileSync('/tmp/left-interval', token), 5).unref()",
        "fs.readFileSync('/tmp/left-interval', 'utf8')",
        group="later",
    ),
    Attack(
        "a time-out",
        "setTimeout(() => fs.writeFileSync('/tmp/left-timeout', token), 140)",
        "fs.readFileSync('/tmp/left-timeout', 'utf8')",
        group="later",
    ),
    Attack(
        "a chain of immediates",
        """
        const again = () => { Reflect.immediates = (Reflect.immediates ?? 0) + 1; setImmediate(again).unref() };
        again()
        """,
        "Reflect.immediates > 2",
        group="later",
    ),
    Attack(
        "a watcher of a folder",
        """
        Reflect.watched = [];
        fs.watch('/tmp', { persistent: false }, (kind, name) => Reflect.watched.push(name))
        """,
        "fs.writeFileSync('/tmp/watched', '') ?? Reflect.watched",
        group="later",
    ),
    Attack(
        "a watcher of a file",
        """
        Reflect.stats = [];
        fs.watchFile('/tmp/stat', { interval: 10, persistent: false }, (now) => Reflect.stats.push(now.size))
        """,
        "fs.writeFileSync('/tmp/stat', token) ?? Reflect.stats",
        group="later",
    ),
    Attack(
        "a handler of a signal",
        "process.on('SIGWINCH', Object.assign(() => {}, { token }))",
        "process.listeners('SIGWINCH').find((each) => each.token)?.token",
        group="process",
    ),
    Attack(
        "a worker thread",
        """
        Reflect.thread = new Worker('setInterval(() => {}, 1000)', { eval: true, workerData: token });
        Reflect.thread.unref()
        """,
        "Reflect.thread?.threadId > 0",
        group="process",
    ),
    Attack("the inspector", "inspector.open(ports[3], '127.0.0.1', false)", "inspector.url()", group="process"),
    Attack(
        "a port on which the process listens",
        """
        Reflect.server = net.createServer((client) => client.end(token)).unref();
        await new Promise((done) => Reflect.server.listen(ports[4], '127.0.0.1', done))
        """,
        "await answers({ port: ports[4], host: '127.0.0.1' })",
        group="process",
    ),
    Attack(
        "an abstract socket of the process",
        """
        Reflect.abstract = net.createServer((client) => client.end(token)).unref();
        await new Promise((done) => Reflect.abstract.listen('\\0' + mark + 'node', done))
        """,
        "await answers({ path: '\\0' + mark + 'node' })",
        group="process",
    ),
    Attack(
        "a UDP port of the process",
        """
        Reflect.udp = dgram.createSocket('udp4').unref();
        await new Promise((done) => Reflect.udp.bind(ports[5], '127.0.0.1', done))
        """,
        """
        const other = dgram.createSocket('udp4');
        return await new Promise((done) => { other.on('error', () => done('taken')); other.bind(ports[5], '127.0.0.1', () => { other.close(); done(null) }) })
        """,
        group="process",
    ),
    Attack(
        "a connection that is kept alive",
        """
        Reflect.agent = new http.Agent({ keepAlive: true });
        Reflect.client = net.connect(Number(new URL(targets.url).port), '127.0.0.1').unref();
        Reflect.client.token = token
        """,
        "Reflect.client?.token",
        group="process",
    ),
    Attack(
        "an observer of performance",
        """
        Reflect.observed = [];
        new PerformanceObserver((list) => Reflect.observed.push(...list.getEntries().map(({ name }) => name))).observe({ entryTypes: ['http', 'resource'] })
        """,
        "Reflect.observed",
        group="later",
    ),
]

FILES = [
    Attack(
        "a file in /tmp",
        "fs.writeFileSync(`/tmp/${mark}n`, token)",
        "fs.readFileSync(`/tmp/${mark}n`, 'utf8')",
        group="files",
    ),
    Attack(
        "a file in /dev/shm",
        "fs.writeFileSync(`/dev/shm/${mark}n`, token)",
        "fs.readFileSync(`/dev/shm/${mark}n`, 'utf8')",
        group="files",
    ),
    Attack(
        "a file in HOME",
        "fs.writeFileSync(path.join(env.HOME, '.npmrc'), `//left/:_authToken=${token}`)",
        "fs.readFileSync(path.join(env.HOME, '.npmrc'), 'utf8')",
        group="files",
    ),
    Attack(
        "a package in the working folder",
        """
        fs.mkdirSync('node_modules/left', { recursive: true });
        fs.writeFileSync('node_modules/left/index.js', `module.exports = '${token}'`)
        """,
        "createRequire(process.cwd() + '/')('left')",
        group="files",
    ),
    Attack(
        "a socket in the working folder",
        """
        Reflect.unix = net.createServer((client) => client.end(token)).unref();
        await new Promise((done) => Reflect.unix.listen('/tmp/left.sock', done))
        """,
        "await answers({ path: '/tmp/left.sock' })",
        group="process",
    ),
]

DAEMONS = [
    Attack(
        "a daemon", "daemon('sleep 60; true', mark + 'd', token)", "processes(mark + 'd').join()", group="daemons later"
    ),
    Attack(
        "a daemon that writes files",
        "daemon('while sleep 0.01; do echo $1 > /tmp/left-daemon; done', mark, token)",
        "fs.readFileSync('/tmp/left-daemon', 'utf8')",
        group="daemons later",
    ),
    Attack(
        "a daemon of Node.js on a port",
        """
        const script = `require('net').createServer((client) => client.end('${token}')).listen(${ports[6]}, '127.0.0.1')`;
        childProcess.spawnSync('/bin/bash', ['-c', '(setsid "$0" "$@" &)', process.execPath, '-e', script, mark], { stdio: 'ignore', env: {} })
        """,
        "await answers({ port: ports[6], host: '127.0.0.1' })",
        group="daemons later",
    ),
    Attack(
        "a child that keeps the output of steps",
        "childProcess.spawn('/bin/bash', ['-c', '(while sleep 0.05; do echo $1; done &)', mark + 'o', token], { stdio: 'inherit' })",
        "processes(mark + 'o').join()",
        group="daemons later",
    ),
]

ATTEMPTS = [
    Attempt("the project's key", "fs.readFileSync(place).length", "ownFile('key')", "targets.key_file"),
    Attempt(
        "the project's database",
        "fs.readFileSync(place).length",
        "ownFile('database')",
        "targets.project + '/project.db'",
    ),
    Attempt(
        "the list of the project's folder",
        "fs.readdirSync(place).find((each) => ['own', 'key', 'project.db'].includes(each))",
        "ownFolder('project')",
        "targets.project",
    ),
    Attempt("writing in the workflow's folder", "writes(place, mark)", "ownFolder('written')", "targets.folder"),
    Attempt(
        "writing in the project's folder",
        "writes(place, mark)",
        "ownFolder('written')",
        "targets.project + '/egress'",
    ),
    Attempt(
        "writing beside the program of the worker",
        "writes(place, mark)",
        "ownFolder('written')",
        "targets.runtimes + '/node'",
    ),
    Attempt("writing in /var/tmp", "writes(place, mark)", "ownFolder('written')", "'/var/tmp'"),
    Attempt("writing beside Node.js", "writes(place, mark)", "ownFolder('written')", "path.dirname(process.execPath)"),
    Attempt(
        "the environment of the server",
        "fs.readFileSync(`/proc/${place}/environ`).length",
        "process.pid",
        "targets.server",
    ),
    Attempt("the memory of the server", "fs.openSync(`/proc/${place}/mem`)", "process.pid", "targets.server"),
    Attempt("the descriptors of the server", "fs.readdirSync(`/proc/${place}/fd`)", "process.pid", "targets.server"),
    Attempt("a signal to the server", "process.kill(place, 0)", "process.pid", "targets.server"),
    Attempt("the priority of the server", "os.getPriority(place) !== null", "process.pid", "targets.server"),
    Attempt(
        "a file for another user",
        "fs.chownSync('given', place, -1) ?? true",
        "ownFile('given') && process.getuid()",
        "12345",
    ),
    Attempt(
        "the environment of the worker's parent",
        "fs.readFileSync(`/proc/${place}/environ`).length + 1",
        "process.pid",
        "process.ppid",
    ),
    Attempt("the memory of the worker's parent", "fs.openSync(`/proc/${place}/mem`)", "process.pid", "process.ppid"),
    Attempt(
        "a Unix socket of a service",
        "answers({ path: place })",
        "(Reflect.service = net.createServer((client) => client.end('own')).unref().listen('/tmp/service.sock'), '/tmp/service.sock')",
        "targets.service",
    ),
]


class TestNode(AttackTests):
    """Attacks of Node.js steps."""

    language = NODE
    attacks = (*THIEVES, *STATE, *PROCESS, *FILES, *DAEMONS, *ATTEMPTS)
