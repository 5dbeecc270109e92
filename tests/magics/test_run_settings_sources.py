"""`%pdevent --emit`: a test event from the workflow's event source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.kiosk import write_kiosk
from tests.cli.test_sources import HEADER, SOURCE, STEP
from tests.magics.conftest import Notebook


@pytest.fixture
def parcels(notebook: Notebook, tmp_path: Path) -> Notebook:
    """A notebook with an event source of a component folder as its trigger."""
    place = tmp_path / "components" / "depot" / "sources" / "new-parcel"
    place.mkdir(parents=True)
    place.joinpath("new-parcel.mjs").write_text(SOURCE)
    notebook.session.project.settings.set("actions", str(tmp_path / "components"))
    notebook.run(HEADER)
    return notebook


def test_the_newest_new_event_is_chosen(parcels: Notebook) -> None:
    """The emitted event is chosen for steps; a second poll finds no event and keeps the chosen one."""
    emitted = parcels.run("%pdevent --emit")
    again = parcels.run("%pdevent --emit")
    ran = parcels.run(STEP)

    assert "1. Parcel 7\n1 new event, 0 emitted before." in emitted
    assert "0 new events, 1 emitted before." in again
    event = parcels.session.event
    assert event is not None
    assert event.data == {"parcel": 7}
    assert parcels.error is None, ran
    assert "8" in ran


def test_a_saved_source_event_is_not_a_request(parcels: Notebook) -> None:
    """A saved event of a source is loaded without added fields."""
    parcels.run("%pdevent --emit")
    parcels.run("%pdevent --save parcel")

    loaded = parcels.run("%pdevent parcel")

    assert "Event parcel" in loaded
    assert parcels.session.event is not None
    assert parcels.session.event.data == {"parcel": 7}


def test_emit_requires_a_source(notebook: Notebook) -> None:
    """The message has an example of a source trigger."""
    said = notebook.run("%pdevent --emit")

    assert "is of type http, not an event source" in said


def test_a_webhook_source_emits_for_a_request(notebook: Notebook, tmp_path: Path) -> None:
    """`%pdevent --emit` reports that the source waits for an event; with a file the source's emitted event is chosen."""
    write_kiosk(tmp_path)
    notebook.session.project.settings.set("actions", str(tmp_path))
    source = "export default { ...base, key: 'kiosk-rung', version: '0.1.0', type: 'source', async run({ method, body }) { this.$emit({ method, body }, { summary: 'Rung' }) } };"
    place = tmp_path / "components" / "kiosk" / "sources" / "rung"
    place.mkdir()
    place.joinpath("rung.mjs").write_text(f"const base = {{ props: {{ http: '$.interface.http' }} }};\n{source}")
    tmp_path.joinpath("request.json").write_text('{"body": {"bell": 2}}')
    notebook.run(HEADER.replace("depot-new-parcel", "kiosk-rung"))

    without = notebook.run("%pdevent --emit")
    emitted = notebook.run("%pdevent request.json --emit")

    assert "%pdevent FILE --emit" in without
    assert "1. Rung" in emitted
    assert notebook.session.event is not None
    assert notebook.session.event.data == {"method": "POST", "body": {"bell": 2}}
