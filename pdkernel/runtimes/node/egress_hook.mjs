// Leads the outside connections of a Node.js process to the gateway for outside calls.
//
// Knows Node's sockets and one line of protocol. Knows nothing of modes, steps or HTTP. Loaded by
// NODE_OPTIONS=--import before any module can keep a reference to the functions that it replaces.
//
// A connection that is not for this machine is made to the gateway instead, and says first, in one line, where it
// was meant to go. For TLS the gateway makes the encrypted connection, so the step's own side stays plain and is dressed
// as a secure socket: no certificate is involved. Lost by that: rejectUnauthorized, pinning, client certificates.
// Not covered: TLS over a socket that exists already (proxy variables and the project's certificate do that), native addons, UDP,
// a child process that is given an environment without our variables, and on Node.js 20 a worker made from a string.
// A host that cannot be reached is a connection that the gateway drops; the hook asks it why, and the socket's error is that.
// If the gateway is gone, connecting fails; nothing ever goes out directly. With PDK_EGRESS_ALL, a process that may reach public
// addresses only, connections to this machine are led to the gateway, too, and Unix sockets are refused.

import { syncBuiltinESMExports } from "node:module";
import net from "node:net";
import tls from "node:tls";

const LOOPBACK = /^(localhost\.?|.*\.localhost\.?|127\.\d+\.\d+\.\d+|0\.0\.0\.0|::1?|::ffff:127\..*|::ffff:7f.*)$/i;

const VIA = Symbol("the socket that carries this one's TLS");

/** Whether *host* is this machine. */
function isLocal(host) {
  return LOOPBACK.test(String(host).replace(/^\[|\]$/g, ""));
}

/** The options of a connect call, whichever of its forms was used, and its callback. */
function normalize(args) {
  if (Array.isArray(args[0])) return args[0];
  const [options, callback] = net._normalizeArgs(args);
  // tls.connect(port, host, options) and tls.connect(port, options) carry the rest in a later argument.
  const more = args.slice(1).find((arg) => arg !== null && typeof arg === "object");
  return [more ? { ...options, ...more } : options, callback];
}

/** Replace what Node connects with; *address* is "host:port" of the gateway. */
function install(address, ticket, everything) {
  const [gatewayHost, gatewayPort] = address.split(":");
  const plainConnect = net.Socket.prototype.connect;
  const plainDestroy = net.Socket.prototype._destroy;
  const secureConnect = tls.connect;
  const ports = new WeakMap(); // of sockets to the gateway: their own

  /** Ask the gateway why it dropped the connection from *port*; `callback({})` if it did not. */
  function askWhy(port, callback) {
    const asking = new net.Socket();
    let said = "";
    asking.setEncoding("utf8");
    asking.on("data", (text) => { said += text; });
    asking.on("error", () => {});
    asking.on("close", () => {
      let why = {};
      try { why = JSON.parse(said); } catch { /* the gateway is gone */ }
      callback(why);
    });
    plainConnect.call(asking, { host: gatewayHost, port: Number(gatewayPort), family: 4 });
    asking.write(`PDK1 ${JSON.stringify({ ticket, dropped: port })}\n`);
  }

  net.Socket.prototype._destroy = function destroy(error, callback) {
    const port = ports.get(this) ?? ports.get(this[VIA]);
    if (port === undefined || !["ECONNRESET", "EPIPE"].includes(error?.code)) return plainDestroy.call(this, error, callback);
    return askWhy(port, (why) => plainDestroy.call(this, why.code ? failed(why) : error, callback));
  };

  /** Remember *socket*, which connects to the gateway. */
  function watch(socket) {
    socket.once("connect", () => ports.set(socket, socket.localPort));
  }

  /** Whether a connection to *host* and *port* is made as it is. */
  function isDirect(host, port) {
    if (everything) return host === gatewayHost && Number(port) === Number(gatewayPort);
    return isLocal(host);
  }

  /** Connect *socket* to the gateway; the first line that it sends says where it was meant to go. */
  function redirect(socket, options, callback, secure) {
    const preamble = {
      host: options.host || "localhost",
      port: Number(options.port),
      tls: secure,
      servername: options.servername || undefined,
      alpn: secure ? protocolsOf(options) : undefined,
      ticket,
    };
    const target = {
      ...options, host: gatewayHost, port: Number(gatewayPort), family: 4, noDelay: true,
      path: undefined, lookup: undefined, hints: undefined, localAddress: undefined, localPort: undefined,
    };
    watch(socket);
    plainConnect.call(socket, target, callback);
    // Written while still connecting, so that it is the first of the writes that wait for the connection.
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

/** The error of a host that cannot be reached, as Node.js has it. */
function failed({ code, message, host, port }) {
  if (code === "ENOTFOUND" || code === "EAI_AGAIN") {
    return Object.assign(new Error(`getaddrinfo ${code} ${host}`), { code, syscall: "getaddrinfo", hostname: host });
  }
  if (["ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH"].includes(code)) {
    return Object.assign(new Error(`connect ${code} ${host}:${port}`), { code, syscall: "connect", address: host, port });
  }
  return Object.assign(new Error(message), { code });
}

/** The protocols that a TLS client offers, as names. */
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

/** Give a plain socket what its users ask of a secure one. */
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

if (process.env.PDK_EGRESS && process.env.PDK_TICKET) {
  install(process.env.PDK_EGRESS, process.env.PDK_TICKET, process.env.PDK_EGRESS_ALL === "1");
}
