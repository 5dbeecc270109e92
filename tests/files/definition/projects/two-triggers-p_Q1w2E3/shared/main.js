export default defineComponent({
  async run({ steps }) {
    return 1
  },
})
