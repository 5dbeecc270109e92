"""
Compares the credential forms of all apps of a components checkout with what the apps read: `make forms CHECKOUT=FOLDER`.

The forms are derived from the texts of the modules. Here the methods of each app's own module also run, with an account that records
which fields they read. An app fits if its form has each of these fields, and its modules use `$auth` in no unclear way.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pdkernel.actions.catalog import AppCredentials, order_form_fields
from pdkernel.workers import find_node

_READS = Path(__file__).with_name("form_reads.mjs")
_LIMIT_S = 10
_MAX_SHOWN = 40


@dataclass(frozen=True)
class AppForm:
    """
    The form of one app.

    Attributes:
        app: The slug.
        fields: The fields of the form; none if the modules read no credentials.
        read: The fields that methods read when they ran.
        unclear: The places of unclear uses of `$auth`.
    """

    app: str
    fields: tuple[str, ...]
    read: frozenset[str]
    unclear: tuple[tuple[str, int], ...]

    @property
    def fits(self) -> bool:
        """Whether an account with exactly the fields of the form has each field that is read."""
        return not self.unclear and self.read <= set(self.fields)


def compare_forms(components: Path) -> Iterator[AppForm]:
    """Yield the form of each app in the folder *components*, in the order of the slugs."""
    credentials = AppCredentials()
    folders = sorted(path for path in components.iterdir() if path.is_dir())
    with ThreadPoolExecutor(2) as pool:
        for folder, read in zip(folders, pool.map(_run_methods, folders), strict=True):
            found = credentials.find(folder)
            yield AppForm(folder.name, order_form_fields(found), read, found.unclear)


def _run_methods(folder: Path) -> frozenset[str]:
    """The fields that the methods of the app's module in *folder* read; those read until then if they do not end."""
    module = next((path for path in sorted(folder.rglob("*.app.*s")) if "node_modules" not in path.parts), None)
    if module is None or "$auth" not in module.read_text(errors="replace"):
        return frozenset()
    command = [str(find_node()), "--no-warnings", str(_READS), str(module)]
    try:
        output = subprocess.run(command, capture_output=True, timeout=_LIMIT_S, check=False, cwd=folder).stdout
    except subprocess.TimeoutExpired as fault:
        output = fault.stdout or b""
    return frozenset(output.decode(errors="replace").split())


def main(components: Path) -> int:
    """Print the apps that do not fit, and the share of those that do."""
    forms = list(compare_forms(components))
    reading = [form for form in forms if form.fields or form.read or form.unclear]
    fitting = [form for form in reading if form.fits]
    for form in [form for form in reading if not form.fits][:_MAX_SHOWN]:
        unclear = ", ".join(f"{path}:{line}" for path, line in form.unclear)
        print(f"{form.app}: reads {', '.join(sorted(form.read - set(form.fields))) or '-'}; unclear: {unclear or '-'}")
    print(
        f"{len(forms)} apps, of which {len(reading)} read credentials, {sum(bool(form.read) for form in reading)} of them when "
        f"their methods ran. The form fits {len(fitting)}: {len(fitting) / max(1, len(reading)):.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
