"""
What a running step may ask for beyond its own process, each under the word before the dot of the call.

Knows the words and who answers each. What an answer takes is for the services themselves to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pdkernel.errors import StepError
from pdkernel.model import JSON


class Service(Protocol):
    """Answers the calls under one word."""

    async def answer(self, operation: str, args: Mapping[str, JSON]) -> JSON:
        """
        The answer to *operation* (the part of the call after the dot).

        Raises:
            PdkernelError: Cannot be done; the step's code gets it as an exception.
        """
        ...


class StepServiceRouter:
    """
    The services of one step (a `hosts.StepServices`).

    Args:
        services: By word: `store`, `flow`.
    """

    def __init__(self, services: Mapping[str, Service]) -> None:
        self._services = services

    async def call(self, call: str, args: Mapping[str, JSON]) -> JSON:
        """
        The answer to *call*.

        Raises:
            PdkernelError: Nobody answers it here, or it cannot be done.
        """
        word, _, operation = call.partition(".")
        service = self._services.get(word)
        if service is None:
            raise StepError(f"{call} is not run by this version.", name="NotRunHereError")
        return await service.answer(operation, args)
