"""
A notebook's export, proven: the same for the magic and for the button.

Knows sessions. What is compared and how is `proof`'s.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pdkernel.proof import Exported, prove
from pdkernel.render.proof import Proof
from pdkernel.session import Session
from pdkernel.session.loop import LoopThread


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
    exported = Exported(
        source=session.notebook or session.folder / "notebook.ipynb",
        workflow=session.workflow,
        sidecar=session.sidecar,
        project=session.project,
        directory=session.directory,
        environ=os.environ,
        users=() if chosen is None else (chosen,),
        pins=tuple(session.pins),
        into=into,
    )
    loop = LoopThread()  # its own: a run of the notebook may go on meanwhile
    try:
        proof = loop.run(prove(exported, folder))
    finally:
        loop.close()
    near = folder.is_relative_to(session.folder)  # a notebook tells nothing of the machine
    return replace(proof, folder=str(folder.relative_to(session.folder))) if near else proof
