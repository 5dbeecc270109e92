export default defineComponent({
  props: {
    slack: { type: "app", app: "slack" },
    dataStore: { type: "data_store" },
    picked: { type: "string" },
    several: { type: "integer[]" },
    country: { type: "string" },
    flag: { type: "boolean" },
    status: { type: "integer" },
    empty: { type: "string", optional: true },
    by_default: { type: "string", default: "as declared" },
    absent: { type: "string", optional: true },
  },
  async run({ $ }) {
    const { slack, dataStore, ...values } = this;
    $.export("values", values);
    $.export("token_length", slack.$auth.oauth_access_token.length);
    $.export("stored", await dataStore.get("k"));
  },
});
