"""Every command, loaded when the program starts; heavy imports wait inside each."""


def load() -> None:
    """Import the modules that add commands."""
    from pdkernel.cli import export, people, run, settings, start

    assert all((export, people, run, settings, start))
