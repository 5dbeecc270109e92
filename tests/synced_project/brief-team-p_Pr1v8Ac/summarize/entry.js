export default defineComponent({
  async run({ steps }) {
    return `${steps.look_up.$return_value.name}: ${steps.list_messages.$return_value.length}`;
  },
})
