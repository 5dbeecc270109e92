"""`python -m pdkernel` is the `pdkernel` command."""

from pdkernel.cli import main

if __name__ == "__main__":
    main()
