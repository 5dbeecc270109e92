"""`pdkernel source`: events from a workflow's event source."""

from __future__ import annotations

import json

from tests.cli.conftest import Shell

SOURCE = """
export default {
  key: "depot-new-parcel", name: "New Parcel", version: "0.1.0", type: "source", dedupe: "unique", props: { db: "$.service.db" },
  async run() { console.log("looking"); this.$emit({ parcel: 7 }, { id: 7, summary: "Parcel 7" }) },
};
"""
HEADER = """%%pdworkflow
name: Parcels
trigger:
  type: source
  uses: depot-new-parcel@0.1.0
"""
STEP = "%%pdstep show --lang node\nexport default { run({ steps }) { return steps.trigger.event.parcel + 1 } }"


def a_folder(pdkernel: Shell) -> str:
    """A notebook with an event source of a component folder as its trigger."""
    place = pdkernel.folder / "components" / "depot" / "sources" / "new-parcel"
    place.mkdir(parents=True)
    place.joinpath("new-parcel.mjs").write_text(SOURCE)
    place.parents[1].joinpath("depot.app.mjs").write_text('export default { type: "app", app: "depot" };')
    assert pdkernel("project", "set", "actions", str(pdkernel.folder / "components")).status == 0
    return pdkernel.notebook(HEADER, STEP)


def test_a_polled_event_is_saved_and_run(pdkernel: Shell) -> None:
    """The new event is listed, saved beside the notebook and starts the workflow; the next poll finds no event."""
    notebook = a_folder(pdkernel)

    polled = pdkernel("source", "poll", notebook, "--save", "parcel")
    again = pdkernel("source", "poll", notebook)
    ran = pdkernel("run", notebook, "--event", "events/parcel-1.json", "--json")

    assert polled.status == 0, polled.stderr
    assert polled.stdout.splitlines()[:3] == ["looking", "1. Parcel 7", "1 new event, 0 emitted before."]
    assert json.loads((pdkernel.folder / "events" / "parcel-1.json").read_text()) == {"parcel": 7}
    assert "0 new events, 1 emitted before." in again.stdout
    assert ran.json["steps"][0]["exports"]["$return_value"] == 8


def test_forgetting_and_polling_as_json(pdkernel: Shell) -> None:
    """After `forget` the same event is new again."""
    notebook = a_folder(pdkernel)
    pdkernel("source", "poll", notebook)

    forgotten = pdkernel("source", "forget", notebook)
    polled = pdkernel("source", "poll", notebook, "--json")

    assert forgotten.stdout == "Removed the source's state: every event is new again.\n"
    assert polled.json["events"] == [{"event": {"parcel": 7}, "id": 7, "summary": "Parcel 7", "ts": None}]
    assert polled.json["repeated"] == 0


def test_a_workflow_without_a_source_is_refused(pdkernel: Shell) -> None:
    """The status is 2, with an example of a source trigger."""
    notebook = pdkernel.notebook(STEP)

    polled = pdkernel("source", "poll", notebook)

    assert polled.status == 2
    assert "is of type http, not an event source" in polled.stderr
