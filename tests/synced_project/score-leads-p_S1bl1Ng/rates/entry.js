const { convert } = require("./convert");

module.exports = {
  run({ steps }) {
    return convert(steps.score.targets ?? 2);
  },
};
