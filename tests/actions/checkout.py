"""
Components that were written for tests, in the layout of a components checkout.

The app `depot` is key-based. It has an event source and four actions: one sends, one loads options from the account,
one adds props, and one cannot be loaded.
"""

from __future__ import annotations

from pathlib import Path

APP = """
export default {
  type: "app",
  app: "depot",
  propDefinitions: {
    shelf: {
      type: "string",
      label: "Shelf",
      description: "Where it goes.",
      async options({ page, query }) {
        if (page > 1) return [];
        return [0, 1, 2]
          .map((n) => ({ label: `Shelf ${page}${n} of ${this.$auth.api_key.slice(-3)}`, value: `s${page}${n}` }))
          .filter(({ label }) => !query || label.includes(query));
      },
    },
  },
  methods: {
    key() {
      return this.$auth.api_key;
    },
  },
};
"""

PUT = """
import depot from "../../depot.app.mjs";

export default {
  key: "depot-put-thing",
  name: "Put a Thing",
  description: "Puts a thing on a shelf. " + "[See the documentation](https://depot.example/docs)",
  version: "0.1.2",
  type: "action",
  props: {
    depot,
    shelf: { propDefinition: [depot, "shelf"], useQuery: true },
    thing: { type: "string", label: "Thing", description: "What is put there." },
    count: { type: "integer", label: "Count", default: 1 },
    note: { type: "string", label: "Note", optional: true },
  },
  async run({ $ }) {
    $.export("$summary", `Put ${this.thing} on ${this.shelf}`);
    return { shelf: this.shelf, thing: this.thing, count: this.count, key: this.depot.key(), note: this.note ?? null };
  },
};
"""

FORM = """
import depot from "../../depot.app.mjs";

export default {
  key: "depot-fill-form",
  name: "Fill a Form",
  description: "Has a prop for each column.",
  version: "0.0.1",
  type: "action",
  props: {
    depot,
    columns: { type: "integer", label: "Columns", reloadProps: true },
  },
  async additionalProps() {
    const props = {};
    for (let n = 0; n < this.columns; n++) props[`col_${n}`] = { type: "string", label: `Column ${n} of ${this.columns}` };
    return props;
  },
  async run() {
    return Object.fromEntries(Object.entries(this).filter(([name]) => name.startsWith("col_")));
  },
};
"""

BROKEN = """
import missing from "a-package-that-is-not-installed";

export default {
  key: "depot-broken",
  name: "Broken",
  description: "Cannot be loaded.",
  version: "0.0.1",
  type: "action",
  props: {},
  async run() {
    return missing;
  },
};
"""

SOURCE = """
export default {
  key: "depot-new-thing",
  name: "New Thing",
  description: "Emits each new thing.",
  version: "0.0.1",
  type: "source",
  props: {},
  async run() {
    this.$emit({ id: 1 }, { id: 1, summary: "thing", ts: 1 });
  },
};
"""

FILES = {
    "depot.app.mjs": APP,
    "actions/put-thing/put-thing.mjs": PUT,
    "actions/fill-form/fill-form.mjs": FORM,
    "actions/broken/broken.mjs": BROKEN,
    "sources/new-thing/new-thing.mjs": SOURCE,
    "common/helper.mjs": "export const one = 1;\n",
}


def write_app(folder: Path, *, version: str = "0.1.2") -> Path:
    """Write the app's package into *folder*, its first action in *version*."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace('"0.1.2"', f'"{version}"'), encoding="utf-8")
    return folder


def write_checkout(folder: Path, *, version: str = "0.1.2") -> Path:
    """Write a checkout with the app `depot` only."""
    write_app(folder / "components" / "depot", version=version)
    return folder
