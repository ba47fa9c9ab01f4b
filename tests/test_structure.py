"""Imports go down only: command line, verbs, what they share, data or models, configuration and errors."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ldmdown

ROOT = Path(ldmdown.__file__).parent
VERBS = {"prepare", "train", "downscale", "convert", "evaluate"}
SHARED = {
    "checkpoint",
    "card",
    "comparison",
    "inference",
    "runtime",
    "maps",
    "metrics",
    "pictures",
    "plots",
    "quicklook",
    "report",
    "spectra",
    "style",
}
SCORING = {"accuracy", "baselines", "bootstrap", "climate", "predictions", "products", "scorecard"}
SCORING |= {"station_scores", "systems"}
TRAINING = ("run", "batches", "heldout", "loop", "training_report")  # what train is made of, each from those before
GROUND = {"config", "errors"}
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
    if module in GROUND:
        return {"errors"} if module == "config" else set()
    if module.startswith("data"):
        return {"data", *GROUND}
    if module.startswith("models"):
        return {"models"}
    if module in SHARED:
        return {"data", "models", *SHARED, *GROUND}
    if module in (*TRAINING, "train"):
        before = TRAINING[: (*TRAINING, "train").index(module)]
        return {"data", "models", *SHARED, *before, *GROUND}
    if module in SCORING or module in VERBS:
        return {"data", "models", *SCORING, *SHARED, *GROUND}
    return {"", "data", "models", *VERBS, *SHARED, *GROUND, "cli"}  # cli, __main__ and the package itself


@pytest.mark.parametrize("module", FILES)
def test_imports_go_down(module: str) -> None:
    assert {name.split(".")[0] for name in own(module)} <= allowed(module)


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("data")])
def test_data_know_no_tensors(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in ("torch", "safetensors")}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("models")])
def test_models_know_no_files(module: str) -> None:
    assert not {name for name in imports(module) if name.split(".")[0] in ("xarray", "netCDF4", "zarr", "pathlib")}


def test_only_the_checkpoint_and_training_read_weights() -> None:
    for module in FILES:
        text = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert "torch.load(" not in text or (module == "run" and "weights_only=True" in text)
        assert "load_file(" not in text or module == "checkpoint"
        assert "import pickle" not in text or module == "data.foreign"
