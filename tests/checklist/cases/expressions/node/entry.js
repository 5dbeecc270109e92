export default defineComponent({
  async run() {
    return { ...this };
  },
});
