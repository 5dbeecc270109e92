"""The sweep: properties with many more examples than `make test` takes, for `make slow`."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("sweep", max_examples=1000, deadline=None)
