"""What a running command tells people: lines and progress bars, on stderr."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ldmdown.errors import printable

QUIET = "LDMDOWN_QUIET"  # the environment's variable


def say(text: str) -> None:
    """Print a line, once however many processes torchrun has started."""
    if _first():
        print(printable(text), file=sys.stderr)


def progress_bar(unit: str) -> Progress:
    """A bar with count, rate and time left, shown by the first process only.

    A task may have the field `note`, a short text behind its rate.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    quiet = not _first()
    return Progress(*columns, console=Console(stderr=True, quiet=quiet), disable=quiet)


def be_quiet() -> None:
    """Tell nothing from here on, in this process and in those that it starts."""
    os.environ[QUIET] = "1"


def _first() -> bool:
    """Whether this process tells anything: the first of torchrun's, unless it is to be quiet."""
    return os.environ.get("RANK", "0") == "0" and not os.environ.get(QUIET)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        rate = f"{task.speed * 60:.1f} {self.unit}/min" if task.speed else self.unit
        return Text(" ".join(filter(None, (rate, task.fields.get("note")))))
