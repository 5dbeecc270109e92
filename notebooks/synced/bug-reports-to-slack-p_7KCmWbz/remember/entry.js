export default defineComponent({
  props: {
    reports: { type: "data_store" },
  },
  async run({ steps }) {
    const { id, customer } = steps.read_report.$return_value;
    const known = (await this.reports.get(customer)) ?? [];
    if (!known.includes(id)) await this.reports.set(customer, [...known, id]);
    return { first: known.length === 0 };
  },
})
