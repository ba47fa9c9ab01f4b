"""What the fields looked like that a checkpoint learned from: measured in hours of an archive, kept in its manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse
from scipy.sparse.linalg import splu

from ldmdown.data.archive.box_means import Boxes
from ldmdown.data.archive.store import READ_ERRORS, Archive
from ldmdown.data.grid import Grid
from ldmdown.data.predictor_law import predictor_law
from ldmdown.data.reading.orography import SHORE
from ldmdown.scoring.measures import FieldMeasures
from ldmdown.typing import Float32Array, FloatArray, IntArray

SAMPLED_PAIRS = 96  # of successive hours of each source
DAMPING = 1e-6  # of boxes that no coarse cell depends on


def learned_from(archive: Archive) -> dict[str, Any]:
    """What the headers of checkpoints say of the training hours of an archive, as JSON holds it."""
    measures = dict(_measures(archive))
    truth = {name: json.loads(one.record().model_dump_json()) for name, one in measures.items()}
    boxes = [one.box_differences() for one in measures.values()]
    known = [one for one in boxes if one["mean"]]
    largest = {"box_differences": max(known, key=lambda one: len(one["lat"]) * len(one["lon"]))} if known else {}
    return {"training_truth": truth, **largest, "predictor_law": predictor_law(archive)}


def _measures(archive: Archive) -> Iterator[tuple[str, FieldMeasures]]:
    """Measures of some training hours of each source of an archive, by the source's name.

    A source without two successive hours is left out.

    ERA5 on its boxes is recovered from the predictors, into which it was interpolated, by least squares.
    """
    statics = dict(zip(archive.statics, archive.load_statics(), strict=True)) if archive.statics else {}
    land, height = land_and_height(statics, archive.statics_normalization)
    for index, source in enumerate(archive.sources):
        window = archive.window(index)
        grid, cells = archive.grid.window(window), archive.grid.fine(window)
        here = (None if field is None else field[cells] for field in (land, height))
        measures = FieldMeasures(grid.cells, *here)
        boxes = BoxRecovery(measures.boxes, grid.coarse)
        for pair in _successive(archive, index):
            measures.forget()
            try:
                read = [archive.read(sample, window) for sample in pair.tolist()]
            except READ_ERRORS:  # training names the hour
                continue
            for sample, fields in zip(pair.tolist(), read, strict=True):
                target = dict(zip(archive.targets, fields["target"], strict=True))
                coarse = dict(zip(archive.predictors, fields["predictors"], strict=True))
                shared = {name: boxes(coarse[name]) for name in target if name in coarse}
                measures.add(int(archive.hours[sample]), target, shared)
        if measures.hours:
            yield source.name, measures


def _successive(archive: Archive, source: int) -> IntArray:
    """Indices (pair, 2) of successive training hours of a realization, spread evenly over those of a source."""
    indices = archive.split("train")
    indices = indices[archive.source[indices] == source]
    first, second = indices[:-1], indices[1:]
    follows = (archive.hours[second] == archive.hours[first] + 1) & (
        archive.realization[second] == archive.realization[first]
    )
    pairs = np.stack([first[follows], second[follows]], axis=1)
    count = min(SAMPLED_PAIRS, -(-len(pairs) // 2))  # so that none share an hour
    return pairs[np.linspace(0, len(pairs) - 1, count).astype(int)]


def land_and_height(
    statics: Mapping[str, Float32Array], normalization: Mapping[str, Mapping[str, Any]]
) -> tuple[FloatArray | None, FloatArray | None]:
    """The share of land and the height [m] of each cell, of normalised static fields; None for what they lack."""
    land, height = statics.get("land_sea_mask"), None
    if "z" in statics and "mean" in normalization.get("z", {}):
        height = normalization["z"]["mean"] + normalization["z"]["std"] * statics["z"].astype(np.float64)
    if land is None and height is not None:
        land = (height > SHORE).astype(np.float64)
    return land, height


class BoxRecovery:
    """Values on boxes from their bilinear interpolation to a coarse grid, by least squares."""

    def __init__(self, boxes: Boxes, coarse: Grid) -> None:
        self.shape = boxes.grid.shape
        weights = boxes.centres.weights(coarse.lat, coarse.lon).astype(np.float64)
        self._whole = np.diff(weights.indptr) > 0  # coarse cells between centres of boxes
        self._weights = weights[self._whole]
        normal = self._weights.T @ self._weights + DAMPING * scipy.sparse.eye_array(weights.shape[1])
        self._solve = splu(normal.tocsc()).solve

    def __call__(self, field: FloatArray) -> FloatArray:
        """Values (rows, cols) on the boxes; those on which no coarse cell depends are near the mean."""
        values = field.ravel()[self._whole].astype(np.float64)
        return (self._solve(self._weights.T @ (values - values.mean())) + values.mean()).reshape(self.shape)
