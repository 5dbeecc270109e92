"""A checkout of components, written for tests: the app `kiosk`, which has event sources only, and a stand-in for its API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

APP = """
export default {
  type: "app",
  app: "kiosk",
  propDefinitions: { street: { type: "string", label: "Street" } },
  methods: {
    async call(method, path, body) {
      const headers = { authorization: `Bearer ${this.$auth.api_key}`, "content-type": "application/json" };
      const response = await fetch(`https://api.kiosk.example${path}`, { method, headers, body: body && JSON.stringify(body) });
      if (!response.ok) throw new Error(`${path} answered ${response.status}`);
      return response.json();
    },
  },
};
"""
COMMON = """
import kiosk from "../../kiosk.app.mjs";

export default {
  props: {
    kiosk,
    db: "$.service.db",
    timer: { type: "$.interface.timer", default: { intervalSeconds: 300 } },
    street: { propDefinition: [kiosk, "street"] },
  },
  hooks: {
    async deploy() {
      await this.look(2);
    },
  },
  methods: {
    meta() {
      throw new Error("meta is not implemented");
    },
    async look(most) {
      const { sales } = await this.kiosk.call("GET", `/sales?street=${this.street}&since=${this.db.get("since") ?? 0}`);
      for (const sale of sales.slice(-most)) this.$emit(sale, this.meta(sale));
      if (sales.length) this.db.set("since", sales.at(-1).at);
    },
  },
  async run({ timestamp, interval_seconds: every }) {
    console.log(`tick ${typeof timestamp} ${every} ${this.timer.intervalSeconds}`);
    await this.look(100);
  },
};
"""
POLLING = """
import common from "../common/polling.mjs";

export default {
  ...common,
  key: "kiosk-each-sale",
  name: "A sale",
  description: "Emits each sale",
  version: "0.0.1",
  type: "source",
  dedupe: "unique",
  methods: {
    ...common.methods,
    meta(sale) {
      return { id: sale.id, summary: `${sale.what} for ${sale.price}`, ts: sale.at };
    },
  },
};
"""
DAILY = """
export default {
  key: "kiosk-opens", name: "Opens", version: "0.1.0", type: "source",
  props: { timer: { type: "$.interface.timer", default: { cron: "0 7 * * *" } } }, async run() {},
};
"""
CALLS = """
import { createHmac } from "node:crypto";
import kiosk from "../../kiosk.app.mjs";

export default {
  key: "kiosk-called", name: "Called", version: "0.1.0", type: "source", dedupe: "unique",
  props: { kiosk, db: "$.service.db", http: { type: "$.interface.http", customResponse: true } },
  hooks: {
    async activate() {
      const { id } = await this.kiosk.call("POST", "/hooks", { url: this.http.endpoint });
      this.db.set("hook", id);
    },
    async deactivate() {
      await this.kiosk.call("DELETE", `/hooks/${this.db.get("hook")}`);
      this.db.set("hook", undefined);
    },
  },
  async run({ method, headers, bodyRaw, body }) {
    const signature = createHmac("sha256", this.kiosk.$auth.api_key).update(bodyRaw).digest("hex");
    if (headers["x-kiosk-signature"] !== signature) return this.http.respond({ status: 401, body: "who are you?" });
    await this.http.respond({ status: 200, body: { thanks: true } });
    this.$emit({ ...body, method }, { id: body.number, summary: `Call ${body.number}`, ts: Date.now() });
  },
};
"""


def write_kiosk(folder: Path) -> Path:
    """Write the checkout into *folder*."""
    files = {"kiosk.app.mjs": APP, "sources/common/polling.mjs": COMMON}
    files |= {
        f"sources/{name}/{name}.mjs": text
        for name, text in (("each-sale", POLLING), ("opens", DAILY), ("called", CALLS))
    }
    for name, text in files.items():
        path = folder / "components" / "kiosk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


class Kiosk:
    """The API, as a stand-in: the sales, and the received requests."""

    def __init__(self) -> None:
        self.url = ""
        self.sales: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, Any]] = []
        self.keys: set[str | None] = set()

    def sell(self, number: int, what: str, price: int) -> None:
        """Add a sale."""
        self.sales.append({"id": number, "what": what, "price": price, "at": 1_700_000_000_000 + number})

    def answer(self, method: str, path: str, body: Any) -> object:
        """The response to a request."""
        self.asked.append((method, path, body))
        return {"sales": self.sales} if path.startswith("/sales") else {"id": "hook_1"}


@contextmanager
def open_kiosk() -> Iterator[Kiosk]:
    """The API, listening on this machine."""
    kiosk = Kiosk()

    def respond(request: SentRequest) -> Answer:
        kiosk.keys.add(request.headers.get("authorization"))
        return 200, kiosk.answer(request.method, request.path, request.json())

    with serve(AnsweringServer(respond)) as server:
        kiosk.url = server.url
        yield kiosk
