"""What of an input cannot be used, and what is far outside of the data that a checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from ldmdown.console import say
from ldmdown.data.grid import ERA5_SPACING, Grid
from ldmdown.data.predictor_law import NAMES, PredictorLaw, tile_features
from ldmdown.data.reading.blocks import moment
from ldmdown.data.reading.fields import Fields
from ldmdown.data.reading.regridded import Regridded, spacing_degrees
from ldmdown.errors import LdmdownError
from ldmdown.inference import Predictor
from ldmdown.typing import FloatArray, IntArray


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
    """What of the input's first member is far outside of the training data, and in which hours since 1970.

    What cannot be compared is told.
    """
    spacing, warnings, far = spacing_degrees(era5.grid), list[str](), set[int]()
    if not ERA5_SPACING / 2 <= spacing <= 2 * ERA5_SPACING:
        warnings.append(f"the input's cells are {spacing:.3g} degrees wide; the checkpoint knows ERA5's {ERA5_SPACING}")
    laws = {one.checkpoint.path: one.checkpoint.header.get("predictor_law") for one in predictors}
    for path, content in laws.items():
        if not content:
            say(f"note: {path} does not tell what its training input looked like: this input is not compared with it")
            continue
        law = PredictorLaw.of(content)
        hours, features = _features(era5, predictors[0].checkpoint.grid.coarse, law)
        if not hours.size:  # the run says why
            break
        scores = law.scores(hours, features)
        distances = law.distances(scores)
        if not distances.size:
            say("note: the input covers no sixth of the domain: it is not compared with the training data")
        elif (outside := distances > 1).any():
            worst = int(distances.argmax())
            warnings.append(
                f"the input is far outside the training data in {outside.sum()} of {len(era5)} hours, most at "
                f"{moment(hours[worst])}: {distances[worst]:.3g} times the limit, "
                f"{law.mean_distances(scores)[worst]:.2g} stds in the means alone; {law.farthest(scores[worst])}"
            )
            far |= set(hours[outside].tolist())
    return warnings, tuple(sorted(far))


def _features(era5: Fields, coarse: Grid, law: PredictorLaw) -> tuple[IntArray, FloatArray]:
    """The hours that can be read, and their features (hour, tile, feature); others are told when they are computed."""
    reader, found = Regridded(era5, coarse, NAMES, beyond="missing", member=0), dict[int, FloatArray]()
    for index, hour in enumerate(era5.hours.tolist()):
        with suppress(LdmdownError):
            found[hour] = tile_features(reader.read(index))[list(law.tiles)]
    features = np.array([*found.values()]) if found else np.full((0, len(law.tiles), 1), np.nan)
    return np.array([*found], np.int64), features
