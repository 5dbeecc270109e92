export default defineComponent({
  async run({ steps, $ }) {
    const { body } = steps.trigger.event;
    return { id: body.id, total: body.total, vip: body.vip, text: `Order ${body.id}` };
  },
})