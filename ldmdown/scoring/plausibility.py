"""An output without a reference: whether it keeps to ERA5, and behaves as what its checkpoint learned from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ldmdown.atomic import sha256
from ldmdown.data.grid import ERA5_SPACING, Grid, SourceGrid, regrid
from ldmdown.data.reading.fields import fields_of
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.reading.regridded import spacing_degrees
from ldmdown.errors import LdmdownError
from ldmdown.header import find, read_header, read_statics
from ldmdown.scoring.measures import MEASURES, FieldMeasures, FieldRecord, HourlyRange, described
from ldmdown.scoring.results import Number, Part, ReferenceFiles
from ldmdown.scoring.terrain import heights_on
from ldmdown.scoring.training_truth import land_and_height
from ldmdown.typing import FloatArray

CHECKED = ("t2m", "u10", "v10")
OUTPUT = "output"
MADE_BY = re.compile(r"checkpoint (\S+) \(stage \w+, sha256 (\w+)\)")  # in the attribute `source` of an output
SLACK = 0.1  # of a number, by which it may lie outside of the training hours'


class Verdict(Part):
    """A number of the output in words, and whether it lies within those of the training hours, where these are known.

    `key` is that of the number in the records.
    """

    key: str
    text: str
    within: bool | None


class Plausibility(Part):
    """The content of scores.json of an output without a reference.

    `records` are by "output" and by the sources of the training archive; `effective_resolution_km` by t2m or ke and
    source.
    """

    ldmdown: str
    title: str
    created: str
    output: ReferenceFiles
    era5: ReferenceFiles
    checkpoint: str
    first: str
    last: str
    notes: list[str]
    verdicts: list[Verdict]
    effective_resolution_km: dict[str, dict[str, Number]]
    records: dict[str, FieldRecord]

    @property
    def training(self) -> dict[str, FieldRecord]:
        """The records of the sources of the training archive."""
        return {name: record for name, record in self.records.items() if name != OUTPUT}


@dataclass(frozen=True)
class KnownTraining:
    """What the checkpoints of an output know: land and height of their grid, and records of what they learned from."""

    label: str
    grid: Grid
    land: FloatArray | None
    height: FloatArray | None
    records: Mapping[str, FieldRecord]
    notes: Sequence[str]

    @classmethod
    def of(cls, names: Sequence[str], hashes: Mapping[str, str]) -> Self:
        """Read checkpoints that make different variables; `hashes` are those that an output names.

        Raises LdmdownError if there is no such checkpoint.
        """
        records: dict[str, FieldRecord] = {}
        notes: list[str] = []
        land = height = None
        for name in names:
            path = find(name)
            header = read_header(path)
            if name in hashes and sha256(path) != hashes[name]:
                notes.append(f"{path} is not the version of {name} that made the output")
            if not header.get("training_truth"):
                notes.append(f"{path} does not tell what its training fields looked like: nothing to compare with")
            land, height = land_and_height(read_statics(path, header), header.get("statics_normalization", {}))
            for source, content in header.get("training_truth", {}).items():
                found = FieldRecord.model_validate(content)
                records[source] = found.joined(records[source]) if source in records else found
        grid = Grid(**header["config"]["grid"])
        return cls(", ".join(names), grid, land, height, records, notes)

    def at(self, grid: SourceGrid, field: FloatArray | None) -> FloatArray | None:
        """A field of the checkpoint in the nearest cells of a grid, NaN outside."""
        if field is None:
            return None
        lon, lat = grid.lonlat()
        source = self.grid.cells
        found = regrid(source.weights(lat, lon, nearest=True), field, grid.shape)
        return np.where(source.covers(lat, lon), found, np.nan)


class UnreferencedOutput(AbstractContextManager["UnreferencedOutput"]):
    """An output of `downscale` and the ERA5 that it was made from, open until it is closed.

    Args:
        output: the output: a file, folder or glob.
        era5: files of ERA5.
        checkpoint: the checkpoint that made the output; None: the one that it names.
        terrain: a file of heights, or None: those of the checkpoint.

    Raises LdmdownError if a file cannot be read, the checkpoint is not at hand, or files have no hour in common.
    """

    def __init__(
        self, output: Path, era5: Sequence[Path], checkpoint: str | None = None, terrain: Path | None = None
    ) -> None:
        with ExitStack() as stack:
            made, coarse = stack.enter_context(GriddedFiles([output])), stack.enter_context(GriddedFiles(era5))
            names = [name for name in CHECKED if name in made.variables() and name in coarse.variables()]
            names = [name for name in names if name == "t2m" or {"u10", "v10"} <= set(names)]
            if not names:
                found = f"{', '.join(made.variables())}; ERA5: {', '.join(coarse.variables())}"
                wrong, expected = "no common variables with ERA5", "t2m, or u10 and v10"
                raise LdmdownError(output, wrong, found=found, expected=expected)
            self.fields, self.era5 = fields_of(made, names), fields_of(coarse, names)
            self.files = tuple(ReferenceFiles(name=Path(one.label).name, files=one.labels) for one in (made, coarse))
            self.hours = np.intersect1d(self.fields.hours, self.era5.hours).tolist()
            if not self.hours:
                fix = "give the ERA5 that the output was made from"
                raise LdmdownError(output, "no common hours with ERA5", fix=fix)
            hashes = dict(MADE_BY.findall(str(made.sources[0].attributes.get("source", ""))))
            if not hashes and checkpoint is None:
                wrong, fix = "does not name the checkpoint that made it", "name it with --checkpoint"
                raise LdmdownError(output, wrong, fix=fix)
            self.training = KnownTraining.of(checkpoint.split(",") if checkpoint else [*hashes], hashes)
            self._files = stack.pop_all()
        self.notes = [*self.training.notes, *self._notes()]
        height = self.training.height if terrain is None else heights_on(self.fields.grid, terrain)
        at = self.training.at(self.fields.grid, height) if terrain is None else height
        if at is None:
            self.notes.append("no terrain is known (--terrain): nothing on temperature and height")
        self.measures = FieldMeasures(self.fields.grid, self.training.at(self.fields.grid, self.training.land), at)
        lat, lon = self.measures.boxes.latlon()
        self._to_boxes = self.era5.grid.weights(lat, lon)
        self._covered = self.era5.grid.covers(lat, lon)

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _notes(self) -> list[str]:
        notes = []
        if len(self.fields.members) > 1:
            notes.append(f"the first of {len(self.fields.members)} members is looked at")
        spacing = spacing_degrees(self.era5.grid)
        if abs(spacing - ERA5_SPACING) > 1e-3:
            notes.append(f"the input's cells are {spacing:.3g} degrees wide; it was interpolated to boxes of 0.25")
        return notes

    def add(self, hour: int) -> None:
        """Measure an hour."""
        fields, coarse = (one.read(int(np.searchsorted(one.hours, hour))) for one in (self.fields, self.era5))
        boxes = regrid(self._to_boxes, coarse, self._covered.shape)
        boxes = np.where(self._covered, boxes, np.nan)
        names = self.fields.names
        self.measures.add(hour, dict(zip(names, fields, strict=True)), dict(zip(names, boxes, strict=True)))

    def verdicts(self, record: FieldRecord) -> list[Verdict]:
        """One for each number that training knows, if it knows any; those that lie outside of it first."""
        unknown = self._unknown(record)
        known = self.training.records.values()
        found = [
            verdict(key, number, [one.numbers[key] for one in known if key in one.numbers])
            for key, number in record.numbers.items()
            if key not in unknown
        ]
        return sorted(found, key=lambda one: (one.within is not False, [*MEASURES].index(one.key.split()[0])))

    def left_out(self, record: FieldRecord) -> list[str]:
        """What there is nothing to say on, and why."""
        notes = []
        if unknown := self._unknown(record):
            notes.append(f"the checkpoint does not know these of its training fields: {', '.join(unknown)}")
        if {"u10", "v10"} <= set(self.fields.names) and not any(key.startswith("breeze") for key in record.numbers):
            notes.append("nothing on the land-sea breeze, which takes wind at all hours of the day and a coast")
        return notes

    def _unknown(self, record: FieldRecord) -> list[str]:
        known = self.training.records.values()
        return [key for key in record.numbers if known and not any(key in one.numbers for one in known)]

    def resolutions(self, record: FieldRecord) -> dict[str, dict[str, float]]:
        """Effective resolution [km] of the output by t2m or ke and source of training."""
        return {
            kind: {
                name: record.resolution(kind, one) for name, one in self.training.records.items() if kind in one.spectra
            }
            for kind in record.spectra
        }


def verdict(key: str, output: HourlyRange, training: Sequence[HourlyRange]) -> Verdict:
    """Compare a number with the intervals that hold 95 % of the training hours of each source."""
    about, (sentence, units) = MEASURES[key.split()[0]], described(key)
    sentence = sentence[:1].upper() + sentence[1:]
    value = f"{output.mean:.3g} {units}"
    if not training:
        return Verdict(key=key, text=f"{sentence} {value if about.signed else f'by {value}'}.", within=None)
    if about.period:
        training = [_turned(one, output.mean, about.period) for one in training]
    low, high = min(one.low for one in training), max(one.high for one in training)
    slack = max(about.slack, SLACK * max(abs(low), abs(high)))
    within = low - slack <= output.mean <= high + slack
    held = f"training: {low:.3g} to {high:.3g}"
    if about.signed:
        return Verdict(
            key=key, text=f"{sentence} {value}, {'as' if within else 'not as'} in training ({held}).", within=within
        )
    usual = float(np.mean([one.mean for one in training]))
    how = "as much" if within else f"{_times(output.mean / usual)} as much"
    return Verdict(key=key, text=f"{sentence} {how} as in training ({value}; {held}).", within=within)


def _turned(number: HourlyRange, near: float, period: float) -> HourlyRange:
    """The number after as many periods as bring it nearest to another."""
    turn = period * round((near - number.mean) / period)
    return number.model_copy(update={part: getattr(number, part) + turn for part in ("mean", "low", "high")})


def _times(ratio: float) -> str:
    return "twice" if 1.95 <= ratio < 2.05 else f"{ratio:.2g} times"
