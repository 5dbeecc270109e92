// Says which `run` functions of installed components were entered, as V8 counted their calls.
//
// Loaded before a worker by NODE_OPTIONS=--import. The counts are V8's own (precise coverage): nothing here, and nothing in
// pdkernel, calls or wraps a component. They are written to the file SWEEP_MARKS before the worker says that a
// request is done, once a second for a step that never is, and at exit.

import fs from "node:fs";
import { Session } from "node:inspector";
import { syncBuiltinESMExports } from "node:module";
import { fileURLToPath } from "node:url";

const file = process.env.SWEEP_MARKS;
const { appendFileSync, readFileSync, writeSync } = fs;

if (file) {
  const session = new Session();
  session.connect();
  session.post("Profiler.enable");
  session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });

  const take = () => {
    session.post("Profiler.takePreciseCoverage", (error, taken) => {
      if (error) return;
      for (const { url, functions } of taken.result) {
        if (!url.startsWith("file:") || !url.includes("/node_modules/@")) continue;
        for (const { functionName, ranges } of functions) {
          if (functionName !== "run" || !ranges[0].count) continue;
          const text = readFileSync(fileURLToPath(url), "utf8").slice(ranges[0].startOffset, ranges[0].endOffset);
          appendFileSync(file, `${JSON.stringify({ url, text, count: ranges[0].count })}\n`);
        }
      }
    });
  };

  fs.writeSync = (fd, data, ...rest) => {
    if (fd === 4 && Buffer.from(data).includes('{"t":"done"')) take();
    return writeSync(fd, data, ...rest);
  };
  syncBuiltinESMExports();
  setInterval(take, 1000).unref();
  process.on("exit", take);
}
