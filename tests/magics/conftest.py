"""An IPython shell to try the extension in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import pdkernel


@pytest.fixture
def shell() -> Iterator[Any]:
    """An IPython shell with pdkernel loaded and no history on disk."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    pdkernel.load_ipython_extension(shell)
    yield shell
    pdkernel.unload_ipython_extension(shell)
    InteractiveShell.clear_instance()
