"""`make conformance`: tests every release of the SDKs and prints the table."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.driving import CHECKS, drive, table
from tests.conformance.sdks import selected_sdks
from tests.conformance.site import site


def main() -> int:
    """Test the releases named by the arguments, or all; return 1 if a check failed."""
    wanted = selected_sdks(sys.argv[1:])
    if not wanted:
        print("Which release? For example 2.3.0, pipedream==2.2.0 or @pipedream/sdk@3.0.2.")
        return 2
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
