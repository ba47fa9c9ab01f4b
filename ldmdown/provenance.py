"""What an output says of how it was made, and what a run that is resumed must agree with."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.atomic import sha256
from ldmdown.data.grid import Window
from ldmdown.inference import SINGLE_FIELD, Predictor
from ldmdown.options import DownscaleOptions

ACKNOWLEDGEMENT = (
    "Contains modified Copernicus Climate Change Service information (ERA5, doi:10.24381/cds.adbb2d47); neither "
    "the European Commission nor ECMWF is responsible for any use of it."
)
REFERENCES = "doi:10.5194/gmd-18-2051-2025 (method); doi:10.1002/qj.3803 (ERA5)"
MAX_LISTED_FILES = 16  # whose sizes and times an output records one by one


def decisive(
    predictors: Sequence[Predictor],
    window: Window,
    options: DownscaleOptions,
    names: Sequence[str],
    files: Sequence[str],
) -> dict[str, Any]:
    """What decides the numbers and their layout: a run that is resumed must agree with it."""
    sampling = [one.options for one in predictors]
    return {
        "checkpoint": ",".join(one.checkpoint.sha256 for one in predictors),
        "members": options.members,
        "statistics": [*options.statistics, *["members"] * options.keep_members] or None,
        "points": None if options.points is None else sha256(options.points),
        "consistency": None if options.consistency == "free" else options.consistency,
        "compression": None if options.compression == "lossless" else options.compression,
        "seed": sampling[0].seed,
        "sampler": ",".join(f"{one.sampler.name} {one.sampler.steps} {one.sampler.spacing}" for one in sampling),
        "temporal correlation": [one.correlation for one in sampling],
        "precision": predictors[0].precision,
        "window": window,
        "variables": names,
        **_input_files(files),
    }


def _input_files(files: Sequence[str]) -> Mapping[str, str]:
    """Sizes and times of the files; of many a hash of them."""
    states = [(f"input {Path(file).name}", _state(Path(file))) for file in files]
    if len(dict(states)) == len(files) <= MAX_LISTED_FILES:
        return dict(states)
    return {"input": f"{len(files)} files, {hashlib.sha256(repr(states).encode()).hexdigest()[:12]}"}


def _state(path: Path) -> str:
    """The size and time of a file, of all files of a folder, or of the zip that holds a file."""
    while not path.exists() and path != path.parent:
        path = path.parent
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    found = [one.stat() for one in files] if path.name else []
    if not found:
        return "no file"
    last = datetime.fromtimestamp(max(one.st_mtime for one in found), UTC).isoformat()
    return f"{sum(one.st_size for one in found)} bytes, {last}"


def attributes(predictors: Sequence[Predictor], files: Sequence[str]) -> dict[str, str]:
    """Global attributes of an output."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made = "; ".join(_source(one) for one in predictors)
    names = ", ".join(Path(file).name for file in files)
    return {
        "title": f"ERA5 downscaled to {predictors[0].checkpoint.grid.spacing / 1000:g} km by ldmdown",
        "history": f"{now}: {shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])}",
        "source": f"ldmdown {version('ldmdown')} with NumPy {np.__version__}, {made}; input {names}",
        "comment": " ".join(one.checkpoint.config.description for one in predictors),
        "references": REFERENCES,
        "acknowledgement": ACKNOWLEDGEMENT,
    }


def _source(predictor: Predictor) -> str:
    """A checkpoint, and how it was used."""
    checkpoint, sampling, header = predictor.checkpoint, predictor.options, predictor.checkpoint.header
    if checkpoint.stage == "ldm":
        steps = "in one call" if sampling.sampler.name == "student" else f"{sampling.sampler.steps} steps"
        sampler = f"{sampling.sampler.name} {steps}"
        how = f"{sampler}, seed {sampling.seed}, temporal correlation {np.mean(sampling.correlation):.3g}"
    else:
        how = SINGLE_FIELD[checkpoint.stage]
    assumed = ""
    if (header["wind"], header["regridding"]) != ("earth", "bilinear"):
        assumed = f", its wind taken as {header['wind']}, its regridding as {header['regridding']}"
    return f"checkpoint {header['name']} (stage {checkpoint.stage}, sha256 {checkpoint.sha256}), {how}{assumed}"
