import { axios } from "@pipedream/platform"
import _ from "lodash@4.17.21"

export default defineComponent({
  props: {
    chat: { type: "app", app: "slack" },
    limit: { type: "integer", default: 10 },
    query: { type: "string" },
  },
  async run({ steps, $ }) {
	return { items: _.take(steps.first.$return_value, this.limit), message: `Hi ${process.env.GREETING ?? "you"}` }
  },
})
