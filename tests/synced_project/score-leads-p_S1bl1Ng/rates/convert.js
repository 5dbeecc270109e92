const path = require("path");
const rates = require("./rates.json");

exports.convert = (amount) => [amount * rates.EUR, path.basename("/a/rates")];
