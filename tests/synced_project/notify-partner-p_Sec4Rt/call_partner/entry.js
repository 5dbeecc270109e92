export default defineComponent({
  props: {
    partner_key: { type: "string", label: "Key of the partner", secret: true },
    request: { type: "object" },
  },
  async run({ steps, $ }) {
    console.log("key", this.partner_key);
    $.export("sent", this.request);
    return { isText: typeof this.partner_key === "string", length: this.partner_key.length };
  },
})
