// Routes the outbound connections of a Node.js process to the gateway.
//
// NODE_OPTIONS=--import loads it before other modules, which could store a reference to the functions that it replaces.
//
// - A connection to another machine connects to the gateway instead, and first sends one line with its target.
// - For TLS, the gateway makes the encrypted connection. The step gets a plain socket with the properties of a secure one. No
//   certificate is checked in the step: rejectUnauthorized, pinning and client certificates have no effect.
// - A connection to the server that runs the workflow (PDK_OWN_PORT) goes to the gateway, too, which marks its requests.
// - If a host is unreachable, the gateway drops the connection. The hook asks the gateway for the reason, which becomes the
//   socket's error.
// - If the gateway has ended, connecting fails; no connection bypasses the gateway.
// - With PDK_EGRESS_ALL, for a process that may reach public addresses only, connections to this machine go to the gateway, too,
//   and Unix sockets are refused.
// - A browser trusts the project's certificate: it reads neither NODE_EXTRA_CA_CERTS nor SSL_CERT_FILE.
// - The hook does not cover TLS over an existing socket (proxy variables and the project's certificate cover it), native addons,
//   UDP, a child process whose environment lacks these variables, and on Node.js 20 a worker that is created from a string.

import { createRequire, syncBuiltinESMExports } from "node:module";
import net from "node:net";
import tls from "node:tls";

const LOOPBACK = /^(localhost\.?|.*\.localhost\.?|127\.\d+\.\d+\.\d+|0\.0\.0\.0|::1?|::ffff:127\..*|::ffff:7f.*)$/i;

const BROWSER = /(^|[\\/])(google-)?(chrom(e|ium)|headless_shell|msedge)[\w.-]*$/i;

const VIA = Symbol("the socket that carries the TLS of this socket");

/** Whether *host* is this machine. */
function isLocal(host) {
  return LOOPBACK.test(String(host).replace(/^\[|\]$/g, ""));
}

/** Return the options and the callback of a connect call, in any of its forms. */
function normalize(args) {
  if (Array.isArray(args[0])) return args[0];
  const [options, callback] = net._normalizeArgs(args);
  // tls.connect(port, host, options) and tls.connect(port, options) carry the rest in a later argument.
  const more = args.slice(1).find((arg) => arg !== null && typeof arg === "object");
  return [more ? { ...options, ...more } : options, callback];
}

/** Replace Node's connect functions; *address* is "host:port" of the gateway, *ownPort* that of the server of the workflow. */
function install(address, token, everything, ownPort) {
  const [gatewayHost, gatewayPort] = address.split(":");
  const plainConnect = net.Socket.prototype.connect;
  const plainDestroy = net.Socket.prototype._destroy;
  const secureConnect = tls.connect;
  const ports = new WeakMap(); // sockets to the gateway, with their local ports

  /** Ask the gateway why it dropped the connection from *port*, and pass the reason to *callback*; `{}` if it did not. */
  function askWhy(port, callback) {
    const query = new net.Socket();
    let received = "";
    query.setEncoding("utf8");
    query.on("data", (text) => { received += text; });
    query.on("error", () => {});
    query.on("close", () => {
      let reason = {};
      try { reason = JSON.parse(received); } catch { /* the gateway has ended */ }
      callback(reason);
    });
    plainConnect.call(query, { host: gatewayHost, port: Number(gatewayPort), family: 4 });
    query.write(`PDK1 ${JSON.stringify({ token, dropped: port })}\n`);
  }

  net.Socket.prototype._destroy = function destroy(error, callback) {
    const port = ports.get(this) ?? ports.get(this[VIA]);
    if (port === undefined || !["ECONNRESET", "EPIPE"].includes(error?.code)) return plainDestroy.call(this, error, callback);
    return askWhy(port, (why) => plainDestroy.call(this, why.code ? failed(why) : error, callback));
  };

  /** Record the local port of *socket*, which connects to the gateway. */
  function watch(socket) {
    socket.once("connect", () => ports.set(socket, socket.localPort));
  }

  /** Whether a connection to *host* and *port* is not redirected. */
  function isDirect(host, port) {
    if (everything) return host === gatewayHost && Number(port) === Number(gatewayPort);
    return isLocal(host) && Number(port) !== ownPort;
  }

  /** Connect *socket* to the gateway; its first line names the target. */
  function redirect(socket, options, callback, secure) {
    const preamble = {
      host: options.host || "localhost",
      port: Number(options.port),
      tls: secure,
      servername: options.servername || undefined,
      alpn: secure ? protocolsOf(options) : undefined,
      token,
    };
    const target = {
      ...options, host: gatewayHost, port: Number(gatewayPort), family: 4, noDelay: true,
      path: undefined, lookup: undefined, hints: undefined, localAddress: undefined, localPort: undefined,
    };
    watch(socket);
    plainConnect.call(socket, target, callback);
    // Written before the connection exists, so that it precedes the other pending writes.
    socket.write(`PDK1 ${JSON.stringify(preamble)}\n`);
    return socket;
  }

  net.Socket.prototype.connect = function connect(...args) {
    const [options, callback] = normalize(args);
    if (options.host === gatewayHost && Number(options.port) === Number(gatewayPort)) watch(this); // by the proxy variables
    if (options.path && everything) {
      const refused = new Error(`connect EACCES ${options.path}: a Unix socket is not a public address.`);
      return this.destroy(Object.assign(refused, { code: "EACCES" }));
    }
    if (options.path || options.port === undefined || isDirect(options.host || "localhost", options.port)) {
      return plainConnect.apply(this, args);
    }
    return redirect(this, options, callback, false);
  };

  tls.connect = function connect(...args) {
    const [options, callback] = normalize(args);
    if (options.socket || options.path || isDirect(options.host || "localhost", options.port)) {
      const socket = secureConnect.apply(this, args);
      if (options.socket) socket[VIA] = options.socket;
      return socket;
    }
    const socket = dress(new net.Socket({ allowHalfOpen: Boolean(options.allowHalfOpen), signal: options.signal }), options);
    if (callback) socket.once("secureConnect", callback);
    if (options.timeout) socket.setTimeout(options.timeout);
    return redirect(socket, options, undefined, true);
  };

  syncBuiltinESMExports();
}

/** Start each Chromium with an option by which it accepts certificates of the authority in *file*, besides the public ones. */
function trustInBrowsers(file) {
  const require = createRequire(import.meta.url);
  let prototype;
  try {
    prototype = process.binding("process_wrap").Process.prototype; // loading node:child_process takes 8 ms in each process
  } catch {
    return; // a version without it: browsers only load pages of `http`, or ignore errors of certificates
  }
  const plainSpawn = prototype.spawn;
  let option;
  prototype.spawn = function spawn(...given) {
    const [program, args] = given.length > 1 ? given : [given[0].file, given[0].args]; // newer versions pass a list
    if (BROWSER.test(program) && Array.isArray(args)) {
      if (option === undefined) {
        const { X509Certificate, createHash } = require("node:crypto");
        const key = new X509Certificate(require("node:fs").readFileSync(file)).publicKey;
        const digest = createHash("sha256").update(key.export({ type: "spki", format: "der" })).digest("base64");
        option = `--ignore-certificate-errors-spki-list=${digest}`;
      }
      args.splice(1, 0, option);
    }
    return plainSpawn.apply(this, given);
  };
}

/** Build Node.js's error for an unreachable host. */
function failed({ code, message, host, port }) {
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") {
    return Object.assign(new Error(`getaddrinfo ${code} ${host}`), { code, syscall: "getaddrinfo", hostname: host });
  }
  if (["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"].includes(code)) {
    return Object.assign(new Error(`connect ${code} ${host}:${port}`), { code, syscall: "connect", address: host, port });
  }
  return Object.assign(new Error(message), { code });
}

/** Return the names of the protocols that a TLS client offers (ALPN). */
function protocolsOf(options) {
  const offered = options.ALPNProtocols;
  if (!offered) return [];
  if (Array.isArray(offered)) return offered.map(String);
  const names = [];
  for (let at = 0; at < offered.length; at += 1 + offered[at]) {
    names.push(Buffer.from(offered.subarray(at + 1, at + 1 + offered[at])).toString("latin1"));
  }
  return names;
}

/** Add the properties and methods of a secure socket to a plain one. */
function dress(socket, options) {
  const offered = protocolsOf(options);
  const name = options.servername || options.host;
  const certificate = () => ({ subject: { CN: name }, subjectaltname: `DNS:${name}`, issuer: {} });
  Object.assign(socket, {
    encrypted: true,
    authorized: true,
    authorizationError: null,
    secureConnecting: true,
    servername: name,
    alpnProtocol: offered.includes("http/1.1") ? "http/1.1" : (offered[0] ?? false),
    getPeerCertificate: certificate,
    getCertificate: () => ({}),
    getPeerX509Certificate: () => undefined,
    getX509Certificate: () => undefined,
    getProtocol: () => "TLSv1.3",
    getCipher: () => ({ name: "TLS_AES_256_GCM_SHA384", standardName: "TLS_AES_256_GCM_SHA384", version: "TLSv1.3" }),
    getEphemeralKeyInfo: () => ({}),
    getSharedSigalgs: () => [],
    getSession: () => undefined,
    getTLSTicket: () => undefined,
    getFinished: () => undefined,
    getPeerFinished: () => undefined,
    isSessionReused: () => false,
    setSession: () => {},
    setServername: () => {},
    setMaxSendFragment: () => true,
    disableRenegotiation: () => {},
    enableTrace: () => {},
    renegotiate: (_options, callback) => { if (callback) process.nextTick(callback, null); return true; },
  });
  socket.once("connect", () => {
    socket.secureConnecting = false;
    socket.emit("secure");
    socket.emit("secureConnect");
  });
  return socket;
}

if (process.env.PDK_EGRESS && process.env.PDK_TOKEN) {
  install(process.env.PDK_EGRESS, process.env.PDK_TOKEN, process.env.PDK_EGRESS_ALL === "1", Number(process.env.PDK_OWN_PORT ?? NaN));
  if (process.env.NODE_EXTRA_CA_CERTS) trustInBrowsers(process.env.NODE_EXTRA_CA_CERTS);
}
