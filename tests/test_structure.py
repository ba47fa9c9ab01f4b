"""Imports go down only: command line, verbs, what they share, data or models, configuration and errors."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ldmdown

ROOT = Path(ldmdown.__file__).parent
GROUND = {"config", "errors"}
ROOMS = {  # what a file in a folder, or a file of the top level by itself, may import from besides the ground
    "data": {"data"},
    "models": {"models"},
    "metrics": set(),
    "spectra": set(),
    "runtime": set(),
    "drawing": {"data", "drawing"},
    "card": {"data", "models"},
    "checkpoint": {"data", "models", "card"},
    "inference": {"data", "models", "checkpoint", "runtime"},
    "scoring": {"data", "models", "checkpoint", "inference", "runtime", "metrics", "spectra", "scoring"},
    "training": {"data", "models", "checkpoint", "runtime", "metrics", "spectra", "drawing", "training"},
}
VERBS = {"prepare", "train", "downscale", "convert", "evaluate"}
FILES = sorted(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py"))


def imports(module: str) -> set[str]:
    """Everything that a file imports, wherever in it, as dotted names."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            below = [f"{node.module}.{name.name}" for name in node.names]
            modules = [name for name in below if name.removeprefix("ldmdown.") in FILES]
            found.update(modules or [str(node.module)])
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return found


def own(module: str) -> set[str]:
    """Of ldmdown's own modules, without the package's name."""
    return {name.removeprefix("ldmdown").lstrip(".") for name in imports(module) if name.split(".")[0] == "ldmdown"}


def allowed(module: str) -> set[str]:
    """First parts of the names that a module may import from."""
    room = module.split(".")[0]
    if room in GROUND:
        return {"errors"} if room == "config" else set()
    if room == "models":
        return ROOMS[room]  # what they need, they are told
    if room in ROOMS:
        return ROOMS[room] | GROUND
    if room in VERBS:
        return {*ROOMS, *GROUND} - ({"scoring"} if room == "train" else {"training"})
    return {"", "cli", *VERBS, *ROOMS, *GROUND}  # cli, __main__ and the package itself


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    assert {name.split(".")[0] for name in own(module)} <= allowed(module)


def test_imports_go_round_nowhere() -> None:
    TopologicalSorter({module: own(module) for module in FILES}).prepare()  # raises at a cycle


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("data")])
def test_data_know_no_tensors(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in ("torch", "safetensors")}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("models")])
def test_models_know_no_files(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in ("xarray", "netCDF4", "zarr", "pathlib")}


def test_only_the_checkpoint_and_training_read_weights() -> None:
    for module in FILES:
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert "torch.load(" not in text or (module == "training.run" and "weights_only=True" in text)
        assert "load_file(" not in text or module == "checkpoint"
        assert "import pickle" not in text or module == "data.foreign"
