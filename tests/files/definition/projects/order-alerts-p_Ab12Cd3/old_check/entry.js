export default defineComponent({
  async run({ steps, $ }) {
    $.flow.exit("old")
  },
})
