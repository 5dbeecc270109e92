// @ts-check
import delay from "./delay-workflow-delay.mjs";

export default {
  ...delay,
  key: "delay-delay-workflow",
  name: "Delay workflow (earlier key)",
  description: "The earlier key of delay-workflow-delay: pauses the workflow after this step.",
  version: "0.0.1",
};
