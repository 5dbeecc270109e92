export default defineComponent({
  props: {
    slack: { type: "app", app: "slack" },
    channel: { type: "string" },
  },
  async run({ steps, $ }) {
    const { customer, title } = steps.read_report.$return_value;
    const response = await fetch("https://slack.com/api/chat.postMessage", {
      method: "POST",
      headers: {
        authorization: `Bearer ${this.slack.$auth.oauth_access_token}`,
        "content-type": "application/json; charset=utf-8",
      },
      body: JSON.stringify({
        channel: this.channel,
        text: `Bug from ${customer}: ${title}`,
      }),
    });
    const answer = await response.json();
    if (!answer.ok) throw new Error(`Slack refused the message: ${answer.error}`);
    $.export("$summary", `Sent to ${this.channel}`);
    return { sent: true, channel: this.channel };
  },
})
