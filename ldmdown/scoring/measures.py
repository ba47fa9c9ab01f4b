"""Numbers of single hours that tell whether fields keep to their coarse partner and behave as weather does.

A box is a cell of ERA5. The detail of a field is what it has beyond its own means over boxes, interpolated; it depends
little on the weather, so that hours of different days compare.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ldmdown import metrics
from ldmdown.data.archive.box_means import Boxes, where_complete
from ldmdown.data.grid import ERA5_SPACING, SourceGrid
from ldmdown.scoring.climatology import Bins, FieldsByName
from ldmdown.scoring.coast import Coast, DailyCycle
from ldmdown.scoring.geometry import GridGeometry
from ldmdown.scoring.results import Number, Part, Values
from ldmdown.scoring.scorecard import complete_part
from ldmdown.scoring.summaries import rounded
from ldmdown.typing import BoolArray, FloatArray

LAND = 0.5  # share of a cell, or of a box, from which it counts as land
TAIL = 0.001  # share of the cells in a tail
INTERVAL = (0.025, 0.975)  # of the hours' values
WAVELENGTHS = 4.0 * 2 ** (np.arange(24) / 3)  # centres of third octaves [km]
LEVEL = (100.0, 250.0)  # wavelengths whose power says how strong the weather is [km]
SPECTRUM_TOLERANCE = 3.0  # [dB], of weather that is not the same
DERIVATIVES = Bins(-0.004, 0.004, 100)  # [s-1]
FEWEST_CELLS = 100  # of a kind of ground, from which a number means something
SEASONS = ("DJF", "MAM", "JJA", "SON")


@dataclass(frozen=True)
class Measure:
    """A number of an hour (of the breeze, of a day): a sentence that it ends, and its units.

    `{}` stands for a variable, a kind of ground and a season.
    """

    sentence: str
    units: str = "field"  # of the variable
    signed: bool = False  # a difference, whose ratio to another says nothing
    slack: float = 0.0  # that is no departure from training, in its units
    period: float = 0.0  # after which it is the same; 0: it has none


MEASURES = {
    "box_bias": Measure("box means of {} less ERA5 are on average", signed=True, slack=0.1),
    "box_rmse": Measure("box means of {} differ from ERA5", slack=0.02),
    "detail": Measure("{} varies within ERA5's boxes"),
    "change": Measure("the detail of {} changes from hour to hour"),
    "lapse_rate": Measure("temperature {} changes with height by", "K km-1", signed=True),
    "breeze": Measure("the land-sea breeze {} swings", "m s-1", slack=0.1),
    "breeze_hour": Measure("the sea breeze {} is strongest, in local solar time, at", "h", True, slack=1, period=24),
    "low_tail": Measure("the lowest 0.1 % of the detail of {} ends at", signed=True),
    "high_tail": Measure("the highest 0.1 % of the detail of {} begins at", signed=True),
    "divergence": Measure("the divergence of the wind varies", "h-1"),
    "vorticity": Measure("the vorticity of the wind varies", "h-1"),
}
VARIABLE_WORDS = {
    "t2m": ("temperature", "K"),
    "wind": ("wind", "m s-1"),
    "ws10": ("wind speed", "m s-1"),
    "u10": ("eastward wind", "m s-1"),
    "v10": ("northward wind", "m s-1"),
}
PLACES = {"land": "over land", "sea": "over sea"} | {season: f"in {season}" for season in SEASONS}


def described(key: str) -> tuple[str, str]:
    """What a number "measure variable ground season" says, in words, and its units."""
    measure, *parts = key.split()
    about = MEASURES[measure]
    words = [VARIABLE_WORDS[part][0] if part in VARIABLE_WORDS else PLACES.get(part, part) for part in parts]
    units = VARIABLE_WORDS[parts[0]][1] if about.units == "field" else about.units
    return about.sentence.format(" ".join(words)), units


class HourlyRange(Part):
    """The mean of the hours' values, the interval that holds 95 % of them, and the mean of each hour of the day.

    Of the breeze's numbers the interval is one of days, and `diurnal` the wind onshore by local solar hour.
    """

    mean: Number
    low: Number
    high: Number
    diurnal: Annotated[Values, Field(min_length=24, max_length=24)]


class FieldRecord(Part):
    """What fields looked like.

    `numbers` are by "measure variable ground season"; `spectra` (WAVELENGTHS) [units2 km2] by t2m or ke; `densities` of
    divergence and vorticity [s].
    """

    hours: int
    numbers: dict[str, HourlyRange]
    spectra: dict[str, Values]
    densities: dict[str, Values]

    def joined(self, other: FieldRecord) -> FieldRecord:
        """Both, of other variables of the same hours."""
        parts = ("numbers", "spectra", "densities")
        return self.model_copy(update={part: getattr(self, part) | getattr(other, part) for part in parts})

    def resolution(self, kind: str, other: FieldRecord) -> float:
        """The shortest wavelength [km] down to which power, relative to that of LEVEL, is as another record's."""
        wavelength, (short, long) = WAVELENGTHS, LEVEL
        ratio = metrics.decibels(self.spectra[kind], other.spectra[kind])
        ratio = ratio - np.nanmean(ratio[(wavelength > short) & (wavelength < long)])
        wrong = wavelength[(np.abs(ratio) > SPECTRUM_TOLERANCE) & (wavelength < short)]
        return float(wavelength[wavelength > wrong.max(initial=0)].min())


class FieldMeasures:
    """Measures hours of fields on one grid, one after the other.

    Args:
        grid: of the fields.
        land: the share of land of each cell (rows, cols), or None where it is not known.
        height: the height of each cell [m] (rows, cols), or None where it is not known.
    """

    def __init__(self, grid: SourceGrid, land: FloatArray | None, height: FloatArray | None = None) -> None:
        self.geometry = GridGeometry(grid)
        self.boxes = Boxes(grid, ERA5_SPACING)
        self._to_cells = self.boxes.centres.weights(self.geometry.lat, self.geometry.lon)
        everywhere = np.ones(grid.shape, bool)
        self.grounds: Mapping[str, BoolArray] = {"everywhere": everywhere}
        if land is not None:
            self.grounds = {"land": land >= LAND, "sea": land < LAND}
        self._coast = None if land is None else Coast(self.geometry, land >= LAND)
        self._box_grounds = {name: self._means(mask.astype(float)) > LAND for name, mask in self.grounds.items()}
        self._relief = None if height is None else self._detail(height, self._means(height))
        self._values: dict[str, list[float]] = defaultdict(list)
        self._onshore: dict[str, list[tuple[float, float]]] = defaultdict(list)  # solar times [h] and values
        self._diurnal: dict[str, FloatArray] = defaultdict(lambda: np.zeros((24, 2)))
        self._spectra: dict[str, list[FloatArray]] = defaultdict(list)
        self._counts: dict[str, FloatArray] = defaultdict(lambda: np.zeros(DERIVATIVES.number))
        self._bias: dict[str, list[FloatArray]] = defaultdict(list)
        self._last: dict[str, tuple[int, FloatArray]] = {}  # detail by variable, and its hour
        self.hours = 0

    def add(self, hour: int, fields: FieldsByName, coarse: FieldsByName) -> None:
        """Take an hour: fields (rows, cols), and their coarse partners on `boxes`, NaN where there is none."""
        self.hours += 1
        fields = dict(fields)
        if {"u10", "v10"} <= fields.keys():
            fields["ws10"] = np.hypot(fields["u10"], fields["v10"])
        means = {name: self._means(field) for name, field in fields.items()}
        detail = {name: self._detail(field, means[name]) for name, field in fields.items()}
        for name in coarse.keys() & fields.keys():
            self._add_differences(hour, name, means[name] - coarse[name])
        vectors = {"t2m": ["t2m"], "wind": ["u10", "v10"]}
        for name, parts in vectors.items():
            if detail.keys() >= set(parts):
                self._add_detail(hour, name, np.stack([detail[part] for part in parts]))
        for name in detail.keys() & {"t2m", "ws10"}:
            values = detail[name][np.isfinite(detail[name])]
            if values.size >= FEWEST_CELLS:
                low, high = np.quantile(values, [TAIL, 1 - TAIL])
                self._note(hour, f"low_tail {name}", low)
                self._note(hour, f"high_tail {name}", high)
        if self._relief is not None and "t2m" in detail:
            self._add_lapse_rate(hour, detail["t2m"], self._relief)
        if self._coast is not None and "ws10" in fields:
            self._add_breeze(hour, np.stack([fields["u10"], fields["v10"]]), self._coast)
        self._add_scales(hour, fields)

    def forget(self) -> None:
        """Let the next hour follow no other, as where another series begins."""
        self._last = {}

    def record(self) -> FieldRecord:
        """What the hours so far come to."""
        numbers = {}
        for key, values in self._values.items():
            low, high = np.quantile(values, INTERVAL)
            total, count = self._diurnal[key].T
            mean, low, high = rounded([float(np.mean(values)), low, high])
            diurnal = rounded(total / np.where(count > 0, count, np.nan))
            numbers[key] = HourlyRange(mean=mean, low=low, high=high, diurnal=diurnal)
        for key, series in self._onshore.items():
            hours, winds = np.array(series).T
            cycle = DailyCycle.fit(hours, winds, INTERVAL)
            if cycle is not None:
                numbers[f"breeze {key}"] = _of_days(cycle.amplitude, cycle.by_hour)
                numbers[f"breeze_hour {key}"] = _of_days(cycle.hour, np.full(24, np.nan))
        spectra = {}
        for kind, found in self._spectra.items():
            held = np.isfinite(found).any(axis=0)
            spectra[kind] = np.full(len(WAVELENGTHS), np.nan)
            spectra[kind][held] = rounded(np.nanmean(np.array(found)[:, held], axis=0))
        densities = {name: rounded(count / (count.sum() * DERIVATIVES.width)) for name, count in self._counts.items()}
        return FieldRecord(hours=self.hours, numbers=numbers, spectra=spectra, densities=densities)

    def bias(self) -> dict[str, FloatArray]:
        """By variable the mean difference of box means from the coarse fields, on `boxes`; NaN where there is none."""
        return {name: np.mean(found, axis=0) for name, found in self._bias.items()}

    def box_differences(self) -> dict[str, Any]:
        """The same difference and its std over the hours, and where the boxes lie, as JSON holds them."""
        scatter = {name: np.std(found, axis=0) for name, found in self._bias.items()}
        return {
            "lat": self.boxes.centres.y.tolist(),
            "lon": self.boxes.centres.x.tolist(),
            "mean": {name: _as_json(field) for name, field in self.bias().items()},
            "std": {name: _as_json(field) for name, field in scatter.items()},
        }

    def _means(self, field: FloatArray) -> FloatArray:
        return self.boxes.means(self.boxes.of_source, field)

    def _detail(self, field: FloatArray, means: FloatArray) -> FloatArray:
        return field - where_complete(self._to_cells, means, field.shape)

    def _note(self, hour: int, key: str, value: float) -> None:
        self._values[key].append(float(value))
        self._diurnal[key][hour % 24] += float(value), 1

    def _add_differences(self, hour: int, name: str, difference: FloatArray) -> None:
        self._bias[name].append(difference)
        for ground, mask in self._box_grounds.items():
            values = difference[mask & np.isfinite(difference)]
            if values.size:
                self._note(hour, f"box_bias {name} {ground}", values.mean())
                self._note(hour, f"box_rmse {name} {ground}", _rms(values))

    def _add_detail(self, hour: int, name: str, detail: FloatArray) -> None:
        """Detail (component, rows, cols), and how it has changed since the hour before."""
        parts, (last, before) = {"detail": detail}, self._last.get(name, (None, detail))
        if last == hour - 1:
            parts["change"] = detail - before
        for measure, part in parts.items():
            length = np.sqrt(np.square(part).sum(axis=0))
            for ground, mask in self.grounds.items():
                values = length[mask & np.isfinite(length)]
                if values.size >= FEWEST_CELLS:
                    self._note(hour, f"{measure} {name} {ground}", _rms(values))
        self._last[name] = hour, detail

    def _add_lapse_rate(self, hour: int, detail: FloatArray, relief: FloatArray) -> None:
        """The slope of a regression of temperature's detail on that of height [K km-1]."""
        ground = "land" if "land" in self.grounds else "everywhere"
        held = self.grounds[ground] & np.isfinite(detail) & np.isfinite(relief)
        relief, warmth = relief[held], detail[held]
        if held.sum() >= FEWEST_CELLS and relief.any():
            slope = float(1000 * (relief @ warmth) / (relief @ relief))
            self._note(hour, f"lapse_rate {ground}", slope)
            self._note(hour, f"lapse_rate {ground} {season(hour)}", slope)

    def _add_breeze(self, hour: int, wind: FloatArray, coast: Coast) -> None:
        """The mean wind towards the land [m s-1] on either side of the shore."""
        towards = (wind * coast.onshore).sum(axis=0)
        for side, mask in coast.sides.items():
            values = towards[mask & np.isfinite(towards)]
            if values.size >= FEWEST_CELLS:
                self._onshore[f"{side} {season(hour)}"].append((hour + coast.solar_lead, float(values.mean())))

    def _add_scales(self, hour: int, fields: FieldsByName) -> None:
        """Spectra and derivatives of the wind, in the largest part of the grid without missing cells."""
        part = complete_part(np.logical_and.reduce([np.isfinite(field) for field in fields.values()]))
        if part is None:
            return
        spacing = self.geometry.spacing_km
        for kind, names in (("t2m", ["t2m"]), ("ke", ["u10", "v10"])):
            if fields.keys() >= set(names):
                held = np.stack([fields[name][part] for name in names])
                wavelength, power = metrics.power_spectrum(held, spacing)
                near = np.abs(np.log2(WAVELENGTHS[:, None] / wavelength)) <= metrics.BAND
                area = held[0].size * spacing[0] * spacing[1]
                self._spectra[kind].append((near @ power) * area / np.where(near.any(1), near.sum(1), np.nan))
        if {"u10", "v10"} <= fields.keys():
            derived = self.geometry.divergence_and_vorticity(fields["u10"], fields["v10"], part)
            for name, values in derived.items():
                self._note(hour, name, 3600 * values.std())
                self._counts[name] += DERIVATIVES.count(values)


def _of_days(found: tuple[float, float, float], by_hour: FloatArray) -> HourlyRange:
    mean, low, high = rounded(found)
    return HourlyRange(mean=mean, low=low, high=high, diurnal=rounded(by_hour))


def season(hour: int) -> str:
    """The season of an hour since 1970-01-01T00."""
    return SEASONS[(np.datetime64(hour, "h").astype("datetime64[M]").astype(int) + 1) % 12 // 3]


def _as_json(field: FloatArray) -> list[list[float | None]]:
    return [[round(value, 3) if np.isfinite(value) else None for value in row] for row in field.tolist()]


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
