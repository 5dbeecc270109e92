export default defineComponent({
  async run({ steps, $ }) {
    return "pong"
  },
})
