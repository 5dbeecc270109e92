export default defineComponent({
  async run({ steps, $ }) {
    return steps.trigger.event
  },
})
