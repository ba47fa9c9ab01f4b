"""How a checkout of ldmdown is built, in numbers.

    python tests/benchmarks/structure.py [CHECKOUT ...]        default: this one

Counts Python files under `ldmdown/` and `tests/`; lines are all lines. A stage's name is compared where code asks
whether a value equals, is among, or is looked up by one of the names of training's stages, outside configuration.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

STAGES = {"unet", "vae", "scale", "ldm", "gan"}
OPENS = re.compile(
    r"\b(xr|xarray)\.open_\w+|netCDF4\.Dataset\(|zarr\.open\w*\(|rasterio\.open\(|rioxarray\.open\w*\(|cfgrib\.open\w*\("
)
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def length(node: ast.AST) -> int:
    """Lines of a definition, without its decorators."""
    return node.end_lineno - node.lineno + 1  # type: ignore[attr-defined]


def parameters(node: ast.FunctionDef) -> int:
    """Number of parameters, without self and cls."""
    names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def stage_comparisons(tree: ast.AST) -> int:
    """Comparisons with a stage's name, and dictionaries keyed by two or more of them."""
    found = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [side for one in (node.left, *node.comparators) for side in getattr(one, "elts", [one])]
            found += any(isinstance(side, ast.Constant) and side.value in STAGES for side in sides)
        elif isinstance(node, ast.Dict):
            found += len([key for key in node.keys if isinstance(key, ast.Constant) and key.value in STAGES]) > 1
    return found


def arrows(package: Path, trees: dict[Path, ast.Module]) -> set[tuple[str, str]]:
    """Pairs of folders (or top-level modules), of which the first imports from the second."""

    def room(parts: tuple[str, ...]) -> str:
        folders = [part for end in range(1, len(parts) + 1) if package.joinpath(*(part := parts[:end])).is_dir()]
        return ".".join(folders[-1] if folders else parts[:1])

    def targets(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from (f"{node.module}.{name.name}" for name in node.names)
            elif isinstance(node, ast.Import):
                yield from (name.name for name in node.names)

    found = set()
    for path, tree in trees.items():
        here = room(path.relative_to(package).with_suffix("").parts)
        for name in targets(tree):
            parts = tuple(name.split("."))
            if parts[0] == "ldmdown" and len(parts) > 2:
                found.add((here, room(parts[1:])))
    return {(here, there) for here, there in found if here != there}


def complex_functions(package: Path) -> int:
    """Number of functions whose McCabe complexity is above 10, counted by ruff."""
    command = ["ruff", "check", "--isolated", "--no-cache", "-q", "--select", "C901", "--output-format", "concise"]
    done = subprocess.run([*command, str(package)], capture_output=True, text=True, check=False)
    return done.stdout.count("C901")


def measure(checkout: Path) -> dict[str, int | str]:
    """Every number, by its name."""
    package = checkout / "ldmdown"
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    functions = [(length(node), path, node) for path, node in nodes if isinstance(node, FUNCTION)]
    classes = [length(node) for _, node in nodes if isinstance(node, ast.ClassDef)]
    longest = max(functions, key=lambda one: one[0])
    texts = {path: path.read_text() for path in trees}
    opened = [path for path, text in texts.items() for _ in OPENS.finditer(text)]
    compared = {path: stage_comparisons(tree) for path, tree in trees.items() if path.name != "config.py"}
    tests = [path.read_text() for path in checkout.joinpath("tests").rglob("*.py")]
    return {
        "modules": len(trees),
        "lines": sum(text.count("\n") for text in texts.values()),
        "functions": len(functions),
        "longest function": f"{longest[0]} ({longest[1].relative_to(package)}: {longest[2].name})",
        "functions over 60 lines": len([one for one in functions if one[0] > 60]),
        "classes over 200 lines": len([one for one in classes if one > 200]),
        "parameter lists over 8": len([one for one in functions if parameters(one[2]) > 8]),  # type: ignore[arg-type]
        "McCabe complexity over 10": complex_functions(package),
        "import arrows between folders": len(arrows(package, trees)),
        "places where a file is opened": len(opened),
        "modules that open a file": len(set(opened)),
        "places where a stage's name is compared": sum(compared.values()),
        "lines of data files (YAML, CSS, JS, HTML)": sum(
            path.read_text().count("\n")
            for path in package.rglob("*")
            if path.suffix in (".yaml", ".css", ".js", ".html", ".j2")
        ),
        "fmt: skip": sum(text.count("fmt: skip") for text in (*texts.values(), *tests)),
        "lines of tests": sum(text.count("\n") for text in tests),
    }


def main() -> None:
    """Print a table with a column for each checkout."""
    checkouts = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[2]]
    columns = [measure(checkout.resolve()) for checkout in checkouts]
    print("| | " + " | ".join(str(checkout) for checkout in checkouts) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column[name]) for column in columns) + " |")


if __name__ == "__main__":
    main()
