// A step's process in small: makes the requests that it is told to, one JSON line each, with the client it is told to use.
import { execFile } from "node:child_process";
import http from "node:http";
import { get as namedGet, request as httpsRequest } from "node:https";
import https from "node:https";
import { createInterface } from "node:readline";
import { Worker } from "node:worker_threads";

const own = new https.Agent({ keepAlive: true });

function viaModule(send, extra = {}) {
  return (method, url, headers, body) => new Promise((resolve, reject) => {
    const request = send(url, { method, headers, ...extra }, (answer) => {
      const chunks = [];
      answer.on("data", (chunk) => chunks.push(chunk));
      answer.on("error", reject);
      answer.on("end", () => resolve([answer.statusCode, answer.headers, Buffer.concat(chunks)]));
    });
    request.on("error", reject);
    request.end(body ?? undefined);
  });
}

const CLIENTS = {
  async fetch(method, url, headers, body) {
    const answer = await fetch(url, { method, headers, body: body ?? undefined });
    return [answer.status, Object.fromEntries(answer.headers), Buffer.from(await answer.arrayBuffer())];
  },
  "http.request": viaModule((url, options, callback) => http.request(url, options, callback)),
  unix: (method, path) => new Promise((resolve, reject) => {
    http.request({ method, socketPath: path, path: "/" }, (answer) => resolve([answer.statusCode, {}, Buffer.from("")]))
      .on("error", reject).end();
  }),
  "https.request": viaModule((url, options, callback) => https.request(url, options, callback)),
  "https.agent": viaModule((url, options, callback) => httpsRequest(url, options, callback), { agent: own }),
  "https.get": viaModule((url, options, callback) => namedGet(url, options, callback)),
  worker: (method, url, headers) => new Promise((resolve, reject) => {
    const worker = new Worker(new URL("node_worker.mjs", import.meta.url), { workerData: { method, url, headers } });
    worker.once("error", reject);
    worker.once("message", ([status, fields, text]) => resolve([status, fields, Buffer.from(text)]));
  }),
  child: (method, url) => new Promise((resolve, reject) => {
    const script = `fetch(${JSON.stringify(url)}, {method: ${JSON.stringify(method)}}).then(async (r) => console.log(JSON.stringify([r.status, Object.fromEntries(r.headers), await r.text()])))`;
    execFile(process.execPath, ["-e", script], (error, stdout, stderr) => {
      if (error) return reject(new Error(stderr));
      const [status, headers, text] = JSON.parse(stdout);
      return resolve([status, headers, Buffer.from(text)]);
    });
  }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const told = JSON.parse(line);
  const body = told.body === null ? null : Buffer.from(told.body, "latin1");
  let out;
  try {
    const [status, headers, content] = await CLIENTS[told.client](told.method, told.url, told.headers, body);
    out = { status, headers, body: content.toString("latin1") };
  } catch (error) {
    out = { error: `${error.name}: ${error.message} ${error.cause?.message ?? ""} ${error.cause?.code ?? error.code ?? ""}` };
  }
  process.stdout.write(JSON.stringify(out) + "\n");
}
