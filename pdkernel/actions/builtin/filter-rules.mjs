// @ts-check
/** Declares the builder's Filter step. It needs no process: the engine evaluates its rules (`pdkernel.language.expression.rules`). */
export default {
  key: "filter-rules",
  name: "Filter with rules",
  description: "The builder's Filter step: continues or ends the workflow if its rules hold.",
  version: "0.0.1",
  type: "action",
  props: {
    _filter: {
      type: "object",
      label: "Filter",
      description: "Whether the workflow continues (continue: true) or ends if the rules hold, and the rules.",
    },
  },
};
