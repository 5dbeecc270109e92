export default defineComponent({
  props: {
    title: { type: "string" },
    lines: { type: "integer" },
  },
  async run({ steps, $ }) {
    return `<h1>${this.title}</h1>`
  },
})
