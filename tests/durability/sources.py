"""Event sources that tests write and deploy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pdkernel.common.clock import SYSTEM_CLOCK
from pdkernel.files.source import load_source
from pdkernel.operations.triggers import workflow_id
from pdkernel.storage import DeployedTrigger, Project, Schedule, Webhook
from tests.actions.checkout import write_checkout


def write_source(project: Project, folder: Path, name: str, text: str) -> None:
    """Write the source `depot-NAME` to a checkout in *folder*, which the project uses."""
    checkout = write_checkout(folder / "components")
    place = checkout / "components" / "depot" / "sources" / name / f"{name}.mjs"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    project.settings.set("actions", str(checkout))


def deploy_source(
    project: Project,
    folder: Path,
    name: str,
    *,
    workflow: str = "flow",
    webhooks: Sequence[Webhook] = (),
    schedule: Schedule | None = None,
) -> str:
    """Deploy the source `depot-NAME` for ada as `dc_NAME`, with a notebook in *folder* and webhooks as targets; return the path of its endpoint."""
    trigger_id, now = f"dc_{name}", SYSTEM_CLOCK.now()
    endpoint = project.endpoint_keys.ensure_trigger_key(trigger_id)
    served = workflow_id(project, load_source(folder / f"{workflow}.ipynb"))
    trigger = DeployedTrigger(
        trigger_id,
        "ada",
        "development",
        f"depot-{name}",
        "0.1.0",
        "Called",
        {},
        {},
        True,
        now,
        now,
        schedule or Schedule(),
    )
    project.deployed_triggers.add(replace(trigger, endpoint=endpoint, workflows=(served,), webhooks=tuple(webhooks)))
    return f"/{endpoint}"
