"""The command `ldmdown`, `python -m ldmdown` and `torchrun -m ldmdown`: Ctrl-C is one line from the first instant."""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from ldmdown import cli

        cli.main()
    except KeyboardInterrupt:
        from ldmdown.errors import STOPPED

        print(STOPPED, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
