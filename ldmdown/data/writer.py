"""A writer of hourly fields whose finished hours survive a kill, whatever the format of the output.

Each finished hour is a file of the folder `OUT.part`. Hours may be written in any order, by several threads and
processes; whoever writes the last one gives the output its name.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ldmdown.atomic import BESIDE, remove, replacing
from ldmdown.data.template import RUN, OutputTemplate
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, IntArray

RUN_FILE = "run.json"  # what the hours in a folder were made with
MAX_SHOWN = 60  # characters of an option in a message


class FieldWriter(ABC):
    """The hourly fields of one output; nothing is touched before `begin`.

    Args:
        path: the output to be.
        template: what is common to all outputs of a run.
        hours: since 1970-01-01T00, rising.
        resume, overwrite: keep or drop what an earlier run has left.

    Raises LdmdownError if an output or finished hours are in the way, or were made with other options or another input.
    """

    folder: ClassVar[bool] = False  # whether the output is a folder
    hour_suffix: ClassVar[str] = ".npz"
    copies: ClassVar[float] = 1.0  # of the output's size that the last step writes beside the hours
    compressed: ClassVar[float]  # size of temperature and wind in a file, relative to their values' 4 bytes

    def __init__(
        self, path: Path, template: OutputTemplate, hours: IntArray, *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path, self.template, self.hours = path, template, hours
        self.part = path.with_name(path.name + ".part")
        self._named = False  # whether an earlier run, with the same options, has given the output its name
        self._fresh = True
        self._claim(resume, overwrite)
        indices = () if self._named else range(len(hours))
        self.left = [index for index in indices if self._fresh or not self.has(index)]
        self.finished = self._named and not self.part.exists()

    @property
    def size(self) -> float:
        """About how many bytes the output takes."""
        values = sum(math.prod(self.template.shape(name)) for name in self.template.names)
        return 4 * self.compressed * len(self.hours) * values

    def begin(self) -> None:
        """Make the folder of finished hours, unless that of an earlier run is resumed.

        Raises LdmdownError if it cannot be made.
        """
        if self._fresh:
            remove(self.part)
            with replacing(self.part / RUN_FILE) as beside:
                beside.write_text(json.dumps(self.template.record(self.hours), indent=1))
        for taken in self.part.glob("*.taken"):  # by a process that was killed
            taken.unlink()

    def write(self, index: int, fields: Mapping[str, Float32Array]) -> None:
        """Keep one hour: by name ([member,] rows, cols). Raises LdmdownError if a value is not finite."""
        if not all(np.isfinite(field).all() for field in fields.values()):
            hour = np.datetime64(int(self.hours[index]), "h")
            raise LdmdownError(
                self.path,
                f"the fields of {hour}:00 are not finite; they were not written",
                fix="try --precision fp32; if that does not help, the checkpoint is broken",
            )
        with replacing(self.hour_file(index)) as beside:
            self._keep(beside, fields)

    def close(self) -> bool:
        """Give the output its name and remove the folder, if all hours are there and no other process does it."""
        if not self._named:
            if not self._complete() or not self.take("output"):
                return False
            self._finish()
        for one in self.part.iterdir():
            if one.name != RUN_FILE:  # the last to go, since a folder without it is a stranger's
                remove(one)
        remove(self.part)
        return True

    def has(self, index: int) -> bool:
        """Whether an hour is written."""
        return self.hour_file(index).exists()

    def hour_file(self, index: int) -> Path:
        """The file of a finished hour."""
        return self.part / f"{np.datetime64(int(self.hours[index]), 'h')}{self.hour_suffix}"

    def stacked(self, name: str, indices: Sequence[int]) -> Float32Array:
        """(hour, ...) of a field, from the files of hours."""
        hours = []
        for index in indices:
            with np.load(self.hour_file(index)) as fields:
                hours.append(fields[name])
        return np.stack(hours)

    def take(self, work: str) -> bool:
        """Take up a piece of work that one thread of one process must do; False if another has taken it."""
        try:
            (self.part / f"{work}.taken").touch(exist_ok=False)
        except (FileExistsError, FileNotFoundError):  # the folder is gone when the output is finished
            return False
        return True

    def _complete(self) -> bool:
        """Whether the output can be written; the last hours, which are missing for longest, are looked at first."""
        return all(map(self.has, reversed(range(len(self.hours)))))

    def _keep(self, path: Path, fields: Mapping[str, Float32Array]) -> None:
        """Write the file of an hour."""
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict[str, Any](fields))

    @abstractmethod
    def _finish(self) -> None:
        """Write the output from the files of its hours."""

    @abstractmethod
    def _run_attribute(self) -> object:
        """The attribute of a finished output that says what it was made with; None if there is none."""

    def _claim(self, resume: bool, overwrite: bool) -> None:
        run_file = self.part / RUN_FILE
        try:
            begun = json.loads(run_file.read_text()) if run_file.exists() else None
        except ValueError as error:
            if not overwrite:
                fix = "give --overwrite to begin again"
                raise LdmdownError(run_file, "is damaged", found=str(error), fix=fix) from None
            begun = {}
        strangers = {one.name for one in self.part.iterdir()} - {RUN_FILE + BESIDE} if self.part.exists() else set()
        if begun is None and strangers:
            raise LdmdownError(self.part, "is in the way: it holds no finished hours of ldmdown", fix="move it away")
        if self.path.is_dir() and (not self.folder or self._run_attribute() is None):
            raise LdmdownError(self.path, "is a folder that ldmdown has not written", fix="name another output")
        if overwrite or (begun is None and not self.path.exists()):
            return
        if begun is None:
            if not resume:
                fix = "name another file, or give --overwrite to replace it"
                raise LdmdownError(self.path, "exists already", fix=fix)
            self._compare(self.path, self._made_with(), "was made")
            self._named = True
        elif not resume:
            finished = sum(map(self.has, range(len(self.hours))))
            raise LdmdownError(
                self.part,
                f"holds {finished} finished hours of a run that was stopped",
                fix="give --resume to go on with it, or --overwrite to begin again",
            )
        else:
            self._compare(self.part, begun, "was begun")
            newer = self.path.exists() and self.path.stat().st_mtime_ns >= run_file.stat().st_mtime_ns
            self._named = newer and self._run_attribute() == json.dumps(begun)
        self._fresh = False

    def _made_with(self) -> dict[str, Any]:
        text = self._run_attribute()
        if not isinstance(text, str):
            expected = f"the attribute {RUN}"
            raise LdmdownError(
                self.path, "does not say what it was made with", expected=expected, fix="give --overwrite"
            )
        return json.loads(text)

    def _compare(self, place: Path, made: Mapping[str, Any], was: str) -> None:
        wanted = self.template.record(self.hours)
        differing = sorted(key for key in wanted | dict(made) if wanted.get(key) != made.get(key))
        if differing:
            only_input = all(key.startswith("input") for key in differing)
            raise LdmdownError(
                place,
                f"{was} with {'another input' if only_input else 'other options'}",
                found="; ".join(f"{key} {_short(made.get(key))}" for key in differing),
                expected="; ".join(f"{key} {_short(wanted.get(key))}" for key in differing),
                fix="give --resume what that run was given, or --overwrite to begin again",
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:12]}..."
