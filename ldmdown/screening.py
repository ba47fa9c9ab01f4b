"""What of an input cannot be used, and what is far outside of the data that a checkpoint was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ldmdown.data.grid import ERA5_SPACING
from ldmdown.data.reading.blocks import moment
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.regridded import spacing_degrees
from ldmdown.data.variables import WINDS, Variable
from ldmdown.errors import LdmdownError
from ldmdown.inference import Predictor
from ldmdown.typing import Float32Array

FAR, FARTHEST = 3.5, 12.0  # standard deviations of a field, and of a single wind, beyond which it is not like training


def bad_hours(era5: Fields, predictors: Sequence[Predictor]) -> dict[int, LdmdownError]:
    """The hours whose predictors cannot be used, and why; not all of them may be."""
    readers, found = [one for each in predictors for one in each.predictors(era5)], dict[int, LdmdownError]()
    for index in range(len(era5)):
        try:
            for one in readers:
                one.read(index)
        except LdmdownError as error:
            found[index] = error
    if len(found) == len(era5):
        raise found[0]
    return found


def far_from_training(era5: Fields, predictors: Sequence[Predictor]) -> tuple[list[str], tuple[int, ...]]:
    """What of the input's first member is far outside of the training data, and in which hours since 1970."""
    spacing, warnings, far = spacing_degrees(era5.grid), list[str](), set[int]()
    if not ERA5_SPACING / 2 <= spacing <= 2 * ERA5_SPACING:
        warnings.append(f"the input's cells are {spacing:.3g} degrees wide; the checkpoint knows ERA5's {ERA5_SPACING}")
    for one in predictors:
        reader, trained = one.predictors(era5)[0], one.checkpoint.normalization["predictors"]
        found: dict[Variable, list[tuple[float, int, str]]] = defaultdict(list)  # times the limit, hour, values
        for index, hour in enumerate(era5.hours.tolist()):
            with suppress(LdmdownError):  # of a bad hour, which is told when it is computed
                for known, field in zip(reader.variables, reader.read(index), strict=True):
                    distance = distance_from_training(field, trained.mean[known.name], trained.std[known.name], known)
                    if distance > 1:
                        found[known].append((distance, hour, f"{np.nanmin(field):.4g} to {np.nanmax(field):.4g}"))
        for known, hours in found.items():
            distance, hour, values = max(hours)
            mean, std = trained.mean[known.name], trained.std[known.name]
            warnings.append(
                f"{known.name} is far outside the training data in {len(hours)} of {len(era5)} hours: {values} "
                f"{known.units} at {moment(hour)}, {distance:.3g} times the limit; in training {mean:.4g} with a "
                f"standard deviation of {std:.3g}"
            )
            far |= {hour for _, hour, _ in hours}
    return warnings, tuple(sorted(far))


def distance_from_training(field: Float32Array, mean: float, std: float, known: Variable) -> float:
    """How far a field lies from training: 1 is the limit."""
    distance = np.abs(field[np.isfinite(field)] - mean) / std
    if not distance.size:
        return 0.0
    farthest = float(distance.max()) / FARTHEST if known.name in WINDS else 0.0
    return max(float(np.sqrt(np.mean(distance**2))) / FAR, farthest)
