// @ts-check
/**
 * Evaluates the expressions in `{{ }}`, each separately.
 *
 * The scope of an expression is `steps`, `event` and `process.env`, which contains only the workflow's variables.
 */

import vm from "node:vm";
import { createSteps } from "./step_api.mjs";
import { encodeJson } from "./export_encoding.mjs";

const { parse } = JSON;

/** @type {Map<string, Function>} */
const compiled = new Map();

/** @param {string} source */
function compile(source) {
  let found = compiled.get(source);
  if (!found) {
    const options = { filename: "<expression>" };
    found = vm.compileFunction(`return (${source}\n)`, ["steps", "process", "event"], options);
    compiled.set(source, found);
  }
  return found;
}

/**
 * Evaluate expressions, each separately.
 *
 * @param {string[]} expressions
 * @param {string[]} names of the steps that the expressions read
 * @param {{texts: Map<string, string>, variables: Record<string, string>}} run
 * @returns {object[]} for each expression its `value`, or `undefined: true`, or its `error`
 */
export function evaluateExpressions(expressions, names, run) {
  const steps = createSteps(names, run.texts, null);
  const shim = { env: { ...run.variables } };
  return expressions.map((source) => {
    try {
      const text = encodeJson(compile(source).call(undefined, steps, shim, steps.trigger?.event), source, () => {});
      return text === undefined ? { undefined: true } : { value: parse(text) };
    } catch (/** @type {any} */ error) {
      return { error: { name: String(error?.name ?? "Error"), message: String(error?.message ?? error) } };
    }
  });
}
