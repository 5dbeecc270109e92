"""Three workflows with branches as a person writes them, for tests of files, cells and runs."""

from __future__ import annotations

ORDERS = (
    "%load_ext pdkernel",
    "%%pdworkflow\nname: Orders\ntrigger: {type: http, response: custom}",
    """%%pdstep check
def handler(pd):
    order = pd.steps["trigger"]["event"]["body"]
    return {"id": order["id"], "amount": order["amount"], "country": order.get("country")}""",
    """%%pdif triage
# large orders go to a person, whoever sends them
large: steps.check.$return_value.amount >= 1000
export:
  t: and
  r:
  - {a: {{steps.check.$return_value.country}}, op: exists}
  - {a: {{steps.check.$return_value.country}}, op: str!=, b: DE}
else:""",
    """%%pdstep ask --in triage.large
def handler(pd):
    return {"approve": "sales", "order": pd.steps["check"]["$return_value"]["id"]}""",
    """%%pdparallel tell --in triage.large
sales: always
finance: steps.check.$return_value.amount >= 5000
log: never     # until the archive is back""",
    """%%pdstep to_sales --in tell.sales
def handler(pd):
    return f"sales: {pd.steps['ask']['$return_value']['order']}\"""",
    """%%pdstep to_finance --in tell.finance
def handler(pd):
    return "finance\"""",
    """%%pdstep declare --in triage.export
def handler(pd):
    return {"form": "customs", "to": pd.steps["check"]["$return_value"]["country"]}""",
    """%%pdstep answer --lang node
export default defineComponent({
  async run({ steps, $ }) {
    await $.respond({ status: 200, body: { order: steps.check.$return_value.id, done: steps.triage.$return_value } })
  },
})""",
)
"""If/else with rules and an empty branch; a parallel block in one of its branches; a step after it."""

SUPPORT = (
    "%load_ext pdkernel",
    "%%pdworkflow\nname: Support mail",
    """%%pdstep classify
def handler(pd):
    text = pd.steps["trigger"]["event"]["body"]["text"].lower()
    kinds = ("invoice", "bug", "cancel")
    return {"kind": next((kind for kind in kinds if kind in text), None), "text": text}""",
    """%%pdswitch route
expression: steps.classify.$return_value.kind
billing: invoice
bug: bug
leaving: cancel
unknown: null
default:""",
    """%%pdstep find_invoice --in route.billing
def handler(pd):
    return "invoice 7\"""",
    """%%pdstep reproduce --in route.bug --lang bash
echo found=yes >> $PIPEDREAM_EXPORTS""",
    """%%pdif how_bad --in route.bug
crash: steps.classify.$return_value.text.includes("crash")
slow:
  steps.classify.$return_value.text.includes("slow")
  || steps.classify.$return_value.text.includes("hangs")""",
    """%%pdstep page --in how_bad.crash
def handler(pd):
    return "paged\"""",
    """%%pdstep keep --in route.leaving
def handler(pd):
    return "offer\"""",
    """%%pdstep report
def handler(pd):
    return {"kind": pd.steps["classify"]["$return_value"]["kind"], "done": pd.steps["route"]["$return_value"]}""",
)
"""Switch with a null case and an empty default; if without else in one of its branches, with a condition in several lines."""

FAN_OUT = (
    "%load_ext pdkernel",
    "%%pdworkflow\nname: Daily report\ntrigger: {type: schedule, cron: 0 7 * * *}",
    "%%pdparallel collect\nsales: always\nweather: always\nstocks: process.env.STOCKS === 'yes'",
    """%%pdstep get_sales --in collect.sales
def handler(pd):
    return {"sum": 12}""",
    """%%pdstep double --in collect.sales
def handler(pd):
    return {"sum": 2 * pd.steps["get_sales"]["$return_value"]["sum"]}""",
    """%%pdstep get_weather --in collect.weather --lang node
export default defineComponent({ async run() { return "sun" } })""",
    """%%pdstep get_stocks --in collect.stocks
def handler(pd):
    return [1, 2]""",
    """%%pdif send
big: steps.collect.$return_value.sales.$return_value.sum > 20
else:""",
    """%%pdswitch channel --in send.big
expression: new Date(steps.trigger.event.timestamp * 1000).getUTCDay()
weekend: {t: or, r: [{op: num=, b: 0}, {op: num=, b: 6}]}
default:""",
    """%%pdstep sms --in channel.weekend
def handler(pd):
    return "sms\"""",
    """%%pdstep mail --in channel.default
def handler(pd):
    return "mail\"""",
)
"""Parallel with two steps in one branch and a condition on a variable; a switch whose case is rules, in an if block at the end."""

WORKFLOWS = {"orders": ORDERS, "support": SUPPORT, "fan_out": FAN_OUT}
