export default defineComponent({
  async run() {
    return { n: 3, list: [1, 2], text: " in ", html: "<b>bold</b> text", nothing: null };
  },
});
