from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from conftest import ldmdown

VERBS = ("downscale", "prepare", "train", "twin", "request", "convert", "evaluate", "plot", "info")


def test_help_comes_without_heavy_imports() -> None:
    program = (
        "import sys\n"
        "from ldmdown.cli import main\n"
        f"for verb in {[[], *([verb] for verb in VERBS)]}:\n"
        "    sys.argv = ['ldmdown', *verb, '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit as done:\n        assert not done.code, (verb, done.code)\n"
        "print([name for name in ('torch', 'xarray', 'numpy', 'yaml') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("Usage") == 1 + len(VERBS)


def test_every_verb_shows_an_example() -> None:
    for verb in VERBS:
        assert f"ldmdown {verb}" in ldmdown(verb, "--help").stdout.split("Usage", 1)[1].split("\n", 2)[2]


def test_a_users_error_has_no_traceback(tmp_path: Path) -> None:
    done = ldmdown("downscale", "none.nc", "-o", "out.txt", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("out.txt: is not a name that can be written\n") and "out.nc" in done.stderr


def test_an_unknown_checkpoint_is_answered_with_the_known(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.safetensors").write_bytes(b"no weights")
    done = ldmdown("info", "your", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("your: no such checkpoint\n  found: italy, mine\n")
    broken = ldmdown("info", "mine", folder=tmp_path)
    assert broken.returncode == 1 and "mine.safetensors: is not a checkpoint" in broken.stderr


def test_a_temporal_correlation_out_of_range() -> None:
    done = ldmdown("downscale", "x.nc", "-o", "y.nc", "--temporal-correlation", "1.2")
    assert done.returncode == 1
    assert done.stderr.startswith("--temporal-correlation: is out of range\n") and "found: 1.2" in done.stderr


def test_a_misspelt_option_is_a_usage_error() -> None:
    done = ldmdown("downscale", "x.nc", "-o", "y.nc", "--member", "2")
    assert done.returncode == 2 and "--member" in done.stderr


def test_the_bundled_card() -> None:
    done = ldmdown("info", "italy")
    assert done.returncode == 0, done.stderr
    for part in ("not an emulator of COSMO", "672 x 576 cells of 2000 m", "EPSG:3035", "t2m, u10, v10", "MIT", "CC BY"):
        assert part in done.stdout
