"""Imports go down only: command line, verbs, what they share, data or models, configuration and errors."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ldmdown

ROOT = Path(ldmdown.__file__).parent
BASE = {"choices", "config", "errors", "atomic", "typing"}
MAY_IMPORT = {  # folders and top-level modules, and what each may import beside itself and the base
    "data": set(),
    "models": set(),
    "twin": {"data"},
    "metrics": set(),
    "runtime": set(),
    "console": set(),
    "header": set(),
    "checkpoint": {"data", "models", "header"},
    "inference": {"data", "models", "checkpoint", "runtime"},
    "options": {"data"},
    "screening": {"data", "inference", "console"},
    "provenance": {"data", "inference", "options"},
    "consistency": {"data"},
    "job": {"data", "inference", "console", "consistency"},
    "system": {
        *("data", "models", "checkpoint", "header", "inference", "runtime", "console"),
        *("options", "screening", "provenance", "job", "consistency"),
    },
    "drawing": {"data", "scoring"},
    "scoring": {
        "data",
        "models",
        "checkpoint",
        "header",
        "inference",
        "options",
        "system",
        "consistency",
        "runtime",
        "metrics",
        "twin",
    },
    "training": {"data", "models", "checkpoint", "header", "runtime", "console", "metrics", "drawing"},
}
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
    folder = module.split(".")[0]
    if folder in BASE:
        return {"choices", "errors"}
    if folder == "models":
        return {"models", "typing"}  # what they need, they are told
    if folder in MAY_IMPORT:
        return {folder} | MAY_IMPORT[folder] | BASE
    if folder == "commands":
        return {*MAY_IMPORT, *BASE}  # never each other
    return {"", "cli", "commands", *MAY_IMPORT, *BASE}  # cli, __main__ and the package itself


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
        assert "\nimport pickle\n" not in text or module == "data.reading.pickles"


def test_test_modules_stand_alone_and_their_random_numbers_have_a_seed() -> None:
    """What several test modules need is in conftest.py or made_up.py."""
    for path in Path(__file__).parent.rglob("*.py"):
        text = path.read_text()
        names = re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE)
        assert not [name for name in names if name.startswith("test_")], path.name
        assert not re.search(r"default_rng\(\s*\)", text), path.name
