// @ts-check
export default {
  key: "helper_functions-random-item-from-list",
  name: "Random items from a list",
  description: "Returns random items of a list, each item at most once.",
  version: "0.0.4",
  type: "action",
  props: {
    list: { type: "string[]", label: "List", description: "The items, or an expression whose value is a list." },
    quantity: { type: "integer", label: "Quantity", description: "The number of items.", default: 1, min: 1 },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const left = [...this.list];
    const quantity = Number(this.quantity ?? 1);
    if (!(quantity <= left.length)) {
      throw new Error(`The list has ${left.length} items, and the prop quantity asks for ${this.quantity}.`);
    }
    const items = Array.from({ length: quantity }, () => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
    $.export("$summary", `Selected ${items.length} of ${this.list.length} items.`);
    return items;
  },
};
