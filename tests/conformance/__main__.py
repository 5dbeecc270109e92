"""`make conformance`: drives every release and prints the table."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.driving import CHECKS, drive, table
from tests.conformance.sdks import EVERY
from tests.conformance.site import site


def main() -> int:
    """Drive those whose names hold one of the arguments, or all; 1 if a check failed."""
    wanted = [sdk for sdk in EVERY if not sys.argv[1:] or any(word in str(sdk) for word in sys.argv[1:])]
    results = []
    with tempfile.TemporaryDirectory() as folder, site(Path(folder)) as served:
        for sdk in wanted:
            sdk.install()
            results.append((sdk, drive(sdk, served)))
    print(table(results))
    failed = [(sdk, name, outcomes[name]) for sdk, outcomes in results for name in CHECKS if outcomes[name].ok is False]
    for sdk, name, outcome in failed:
        print(f"{sdk}: {CHECKS[name]}: {outcome.detail}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
