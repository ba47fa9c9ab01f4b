"""The one family of errors that a user can cause and correct."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

STOPPED = "stopped; finished work is kept (continue downscale or train with --resume)"


class LdmdownError(Exception):
    """Something in a user's files, options or configuration is wrong.

    The message names the file, what is wrong, what was found, what was expected and the fix, each on
    a line of its own; the command line prints it without a traceback and exits with 1.

    >>> print(LdmdownError("era5.nc", "has no u10", expected="u10", fix="download it"))
    era5.nc: has no u10
      expected: u10
      fix: download it
    """

    exit_code = 1  # of the command that it ends

    def __init__(
        self,
        file: str | Path,
        wrong: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        details = {"found": found, "expected": expected, "fix": fix}
        lines = [f"{file}: {wrong}", *(f"  {key}: {text}" for key, text in details.items() if text)]
        super().__init__(printable("\n".join(lines)))

    def __reduce__(self) -> tuple[Callable[[str], LdmdownError], tuple[str]]:
        return _said, (str(self),)


class OutsideTrainingError(LdmdownError):
    """The input is unlike what the checkpoint was trained on, and the user has asked to stop then."""

    exit_code = 3


class UnreadableError(LdmdownError):
    """What a file of fields holds cannot be read or decoded."""

    def __init__(self, file: str | Path, found: str) -> None:
        fix = "download it again, or look at it with `ncdump -h` or `grib_ls`"
        super().__init__(file, "cannot be read", found=found, fix=fix)


def printable(text: str) -> str:
    """Text without what would control a terminal, such as escapes in the names of a file."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def _said(message: str) -> LdmdownError:
    """An error that came from another process."""
    error = LdmdownError.__new__(LdmdownError)
    error.args = (message,)
    return error
