export default defineComponent({
  props: { httpRequest: { type: "http_request" } },
  async run() {
    return await this.httpRequest.execute();
  },
});
