const RULES = [
  ["billing", /invoice|receipt/i],
  ["bugs", /error|crash/i],
]

export default defineComponent({
  async run({ steps, $ }) {
    const { subject } = steps.trigger.event.headers
    const rule = RULES.find(([, words]) => words.test(subject))
    return rule ? rule[0] : "other"
  },
})
