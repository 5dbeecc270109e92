export default defineComponent({
  async run() {
    return [1, 2]
  },
})
