"""
A notebook's export, proven: the same for the magic and for the button.

Knows sessions. What is compared and how is `proof`'s.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pdkernel.loop_thread import LoopThread
from pdkernel.proof import ExportedNotebook, run_proof
from pdkernel.render.proof import Proof
from pdkernel.session.session import Session


def prove_export(session: Session, folder: Path, *, into: bool = False) -> Proof:
    """
    Prove what an export of *session*'s notebook wrote to *folder*; the chosen external user is a test user, too.

    Args:
        session: Whose notebook was exported.
        folder: Where to.
        into: Whether it is a synced folder that was patched.

    Raises:
        DefinitionError: The notebook's workflow is wrong.
        RequestError: Whose account a step uses is unanswered.
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
    loop = LoopThread()  # its own: a run of the notebook may go on meanwhile
    try:
        proof = loop.run(run_proof(exported, folder))
    finally:
        loop.close()
    near = folder.is_relative_to(session.folder)  # a notebook tells nothing of the machine
    return replace(proof, folder=str(folder.relative_to(session.folder))) if near else proof
