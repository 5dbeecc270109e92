export default defineComponent({
  props: {
    reports: { type: "data_store" },
  },
  async run() {
    const customers = await this.reports.keys();
    const lines = [];
    for (const customer of customers.sort()) {
      lines.push(`${customer}: ${(await this.reports.get(customer)).length}`);
    }
    return lines.join("\n") || "No reports.";
  },
})
