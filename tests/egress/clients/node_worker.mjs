// A thread of a step's process: makes one request and posts its answer.
import { parentPort, workerData } from "node:worker_threads";

const { method, url, headers } = workerData;
const answer = await fetch(url, { method, headers });
parentPort.postMessage([answer.status, Object.fromEntries(answer.headers), await answer.text()]);
