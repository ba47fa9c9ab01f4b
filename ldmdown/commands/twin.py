"""`ldmdown twin`: synthetic ERA5 and reference files of Italy, to try everything without a download."""

from __future__ import annotations

from pathlib import Path

from ldmdown.console import progress_bar
from ldmdown.data.grid import Grid
from ldmdown.twin.files import TwinFiles


def twin(
    output: Path,
    start: str,
    end: str,
    *,
    members: int = 1,
    seed: int = 0,
    orography: Path | None = None,
    coarse_orography: Path | None = None,
) -> None:
    """Write the files of all days from start to end, both included; those that exist are left.

    Raises LdmdownError if a terrain file cannot be used.
    """
    with progress_bar("days") as progress:
        task = progress.add_task("writing")
        TwinFiles(output, Grid(), seed, orography, coarse_orography, members).write(
            [(start, end)], progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
