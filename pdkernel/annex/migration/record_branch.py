"""The Git branch on which the recording steps are written or taken out, for a merge into the branch that Pipedream deploys."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pdkernel.errors import RequestError

DEPLOYED_BRANCH = "production"
"""The branch whose pushes Pipedream deploys."""
ADD_BRANCH = "pdkernel-record"
REMOVE_BRANCH = "pdkernel-record-remove"
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class RecordBranch:
    """
    A branch of the repository of a folder.

    Attributes:
        root: The repository's work tree.
        name: The branch's name.
        previous: The branch that was checked out before, or its commit.
    """

    root: Path
    name: str
    previous: str

    def commit(self, paths: Iterable[Path], message: str) -> None:
        """
        Commit *paths*, also removed ones, on the branch.

        Raises:
            RequestError: Git refuses the commit.
        """
        relative = sorted({str(path.resolve().relative_to(self.root)) for path in paths})
        _git(self.root, "add", "--all", "--", *relative)
        identity = (
            [] if _has_identity(self.root) else ["-c", "user.name=pdkernel", "-c", "user.email=pdkernel@localhost"]
        )
        _git(self.root, *identity, "commit", "--quiet", "--message", message, "--", *relative)

    def abandon(self) -> None:
        """Check out the previous branch, and remove this one, which has no commit of its own."""
        if self.name != self.previous:
            _git(self.root, "switch", "--quiet", *self._previous_words())
            _git(self.root, "branch", "--quiet", "--delete", "--force", self.name)

    def _previous_words(self) -> list[str]:
        return ["--detach", "@{-1}"] if self.previous == "HEAD" else [self.previous]

    def explain_merge(self) -> list[str]:
        """What is left to do, as lines of text."""
        return [
            (
                f"Committed to the branch {self.name}; {self.previous} is unchanged. Review it, and merge it into {DEPLOYED_BRANCH}, which "
                "Pipedream deploys:"
            ),
            f"  git push origin {self.name}",
            (
                f"  Open a pull request from {self.name} to {DEPLOYED_BRANCH}, or: git switch {DEPLOYED_BRANCH} && git merge {self.name} "
                "&& git push"
            ),
            "  Pipedream deploys every changed workflow of the push. In the builder, look at one: the new steps are at its start and end.",
        ]


def open_branch(folder: Path, name: str) -> RecordBranch | None:
    """
    Check out a new branch *name* of the repository of *folder*; None if the folder is not in a repository.

    Raises:
        RequestError: The folder has changes that are not committed, or the branch exists.
    """
    try:
        root = Path(_git(folder, "rev-parse", "--show-toplevel").strip()).resolve()
        previous = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").strip()
    except (RequestError, FileNotFoundError):
        return None  # not a repository, one without a commit, or a machine without Git
    if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".").strip():
        raise RequestError(
            f"{folder} has changes that are not committed, which would become part of the branch.",
            fix="Commit or stash them, or pass --no-branch to write the files only.",
        )
    if previous == name:
        return RecordBranch(root, name, previous)
    if _git(root, "branch", "--list", name).strip():
        raise RequestError(
            f"The branch {name} exists.", fix=f"Delete it (git branch -D {name}), or name another one: --branch NAME"
        )
    _git(root, "switch", "--quiet", "--create", name)
    return RecordBranch(root, name, previous)


def _has_identity(root: Path) -> bool:
    try:
        return bool(_git(root, "config", "user.email").strip())
    except RequestError:
        return False


def _git(folder: Path, *words: str) -> str:
    command: Sequence[str] = ("git", "-C", str(folder), *words)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        reason = " ".join((done.stderr or done.stdout).split())
        raise RequestError(f"git {words[0]} failed: {reason}")
    return done.stdout
