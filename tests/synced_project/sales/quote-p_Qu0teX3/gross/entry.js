export default defineComponent({
  async run({ steps, $ }) {
    return await $.flow.trigger("p_AddTax6", steps.trigger.event.body)
  },
})
