export default defineComponent({
  props: { sheet: { type: "string", reloadProps: true } },
  async additionalProps() {
    return {
      col_0000: { type: "string", label: "Name" },
      col_0001: { type: "string", label: "Nick" },
    };
  },
  async run() {
    return { ...this };
  },
});
