export default defineComponent({
  async run() {
    return ["a", "b"];
  },
});
