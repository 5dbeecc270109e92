export default defineComponent({
  props: {
    any: { type: "any" },
    any_list: { type: "any" },
    any_text: { type: "any" },
    text: { type: "string" },
  },
  async run() {
    return { ...this };
  },
});
