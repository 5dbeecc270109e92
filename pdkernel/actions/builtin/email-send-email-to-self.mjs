// @ts-check
export default {
  key: "email-send-email-to-self",
  name: "Send yourself an email",
  description: "Sends an email to you after the workflow has ended.",
  version: "0.4.4",
  type: "action",
  props: {
    subject: { type: "string", label: "Subject", description: "The subject line." },
    text: { type: "string", label: "Text", description: "The body as plain text." },
    html: { type: "string", label: "HTML", description: "The body as HTML.", optional: true },
  },
  /** @this {any} @param {any} services */
  async run({ $ }) {
    const email = { subject: this.subject, text: this.text, ...(this.html ? { html: this.html } : {}) };
    await $.send.email(email);
    $.export("$summary", `The email "${this.subject}" is sent after the workflow has ended.`);
  },
};
