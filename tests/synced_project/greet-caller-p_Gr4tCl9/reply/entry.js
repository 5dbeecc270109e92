export default defineComponent({
  props: {
    greeting: { type: "string" },
  },
  async run({ steps, $ }) {
    const text = `${this.greeting}, ${steps.read_name.$return_value.name}!`
    await $.respond({ status: 200, headers: { "content-type": "text/plain" }, body: text })
    return text
  },
})
