"""Proof of a notebook's export, for `%pdexport --prove` and the Prove button. The comparison is in `pdkernel.proof`."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from pdkernel.loop_thread import LoopThread
from pdkernel.proof import ExportedNotebook, run_proof
from pdkernel.render.proof import Proof
from pdkernel.session.session import Session


def prove_export(session: Session, folder: Path, *, into: bool = False) -> Proof:
    """
    Prove the files that an export of the notebook wrote to *folder*; the chosen external user is also a test user.

    Args:
        session: The session of the exported notebook.
        folder: The exported folder.
        into: Whether the export patched a synced folder.

    Raises:
        DefinitionError: The notebook's workflow is invalid.
        RequestError: It is not decided whose account a step uses.
    """
    chosen = session.external_user_id
    exported = ExportedNotebook(
        source=session.notebook or session.folder / "notebook.ipynb",
        workflow=session.workflow,
        sidecar=session.sidecar,
        project=session.project,
        directory=session.directory,
        environ=os.environ,
        extra_users=() if chosen is None else (chosen,),
        pins=tuple(session.pins),
        is_patched=into,
    )
    loop = LoopThread()  # a separate loop: a run of the notebook may be in progress
    try:
        proof = loop.run(run_proof(exported, folder))
    finally:
        loop.close()
    if not folder.is_relative_to(session.folder):
        return proof
    # a relative path: the saved notebook should not contain paths of this machine
    return replace(proof, folder=str(folder.relative_to(session.folder)))
