from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import made_up
import pytest
import typer.main
from conftest import ldmdown

from ldmdown.cli import app
from ldmdown.config import Config
from ldmdown.errors import STOPPED
from ldmdown.options import (
    CheckpointOptions,
    ConvertOptions,
    DownscaleOptions,
    PlotOptions,
    RunOptions,
    StationOptions,
)

VERBS = ("downscale", "prepare", "train", "twin", "request", "convert", "fetch", "evaluate", "plot", "info")


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
    content = json.loads(ldmdown("info", "italy", "--json").stdout)
    assert content["config"]["grid"]["rows"] == 672 and content["sha256"] in done.stdout
    assert content["bytes"] > 1e6 and Path(content["file"]).name == "italy.safetensors"
    for part in (
        "no emulator of COSMO",
        "672 x 576 cells of 2000 m",
        "EPSG:3035",
        "t2m, u10, v10",
        "ICON-2I",
        "CC-BY-4.0",
        "training_truth          twin, icon2i (their numbers: --json)",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        (("downscale", "a.nc", "-o", "b.nc"), (DownscaleOptions, RunOptions)),
        (("evaluate", "a.nc", "-o", "b"), (CheckpointOptions, StationOptions)),
        (("plot", "a.nc", "-o", "b.png"), (PlotOptions,)),
        (("fetch", "paper-t2m"), (ConvertOptions,)),
    ],
)
def test_options_have_the_defaults_of_python(words: tuple[str, ...], kinds: tuple[Any, ...]) -> None:
    given = parsed(*words)
    for kind in kinds:
        assert kind(**{one.name: given[one.name] for one in fields(kind)}) == kind()


def test_options_are_read_as_python_takes_them() -> None:
    words = ("--statistics", "mean,p10", "--variables", "u10", "--temporal-correlation", "0.5", "--bbox", "6", "45")
    given = parsed("downscale", "a.nc", "-o", "b.nc", *words, "11", "47")
    expected = {"statistics": ("mean", "p10"), "variables": ("u10",), "temporal_correlation": 0.5, "seed": 0}
    assert given.items() >= (expected | {"bbox": (6, 45, 11, 47)}).items()
    assert parsed("downscale", "a.nc", "-o", "b.nc", "--temporal-correlation", "auto")["temporal_correlation"] is None


def parsed(verb: str, *words: str) -> dict[str, Any]:
    """What a command is given for the words behind it."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return commands[verb].make_context(verb, list(words)).params


def test_defaults_that_depend_on_the_checkpoint_are_shown() -> None:
    """rich takes text in brackets for markup and drops it."""
    shown = " ".join(ldmdown("downscale", "--help").stdout.replace("│", " ").split())
    assert "[default: (italy)]" in shown and "[default: (the checkpoint's)]" in shown


def test_the_card_of_an_output(tmp_path: Path) -> None:
    for name in ("out.nc", "out.zarr"):
        made_up.write_output(tmp_path / name, made_up.OUTPUT_FIELDS)
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.write(tmp_path / "out.nc", "out.nc")
    for name in ("out.nc", "out.zarr", "out.zip"):
        done = ldmdown("info", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        for part in ("t2m, u10, v10", "2021-03-06T02:00", "CF-1.11", "ldmdown_run"):
            assert part in done.stdout
        assert re.search(r"members +3\n", done.stdout)
        content = json.loads(ldmdown("info", str(tmp_path / name), "--json").stdout)
        expected = {"members": 3, "hours": 3, "first": "2021-03-06T00:00", "rows": 16, "cols": 24}
        assert content["variables"] == ["t2m", "u10", "v10"] and content.items() >= expected.items()
    (tmp_path / "text.nc").write_text("no data")
    done = ldmdown("info", str(tmp_path / "text.nc"))
    assert done.returncode == 1 and "text.nc: is no NetCDF, GRIB or zip file" in done.stderr


def test_the_schema_knows_every_key_of_a_configuration() -> None:
    schema = json.loads(ldmdown("info", "--schema").stdout)
    assert schema["properties"].keys() == Config.model_fields.keys() and schema["additionalProperties"] is False
    for arguments in ([], ["italy", "--schema"]):
        assert ldmdown("info", *arguments).stderr.startswith("info: needs one thing to print\n")


def test_quiet_tells_errors_and_results_alone(tmp_path: Path) -> None:
    made_up.write_output(tmp_path / "out.nc", made_up.OUTPUT_FIELDS[:1], made_up.OUTPUT_HOURS[:1])
    arguments = ["plot", "out.nc", "-o", "out.gif", "--variables", "t2m"]
    assert "drawing" in ldmdown(*arguments, folder=tmp_path).stderr
    quiet = ldmdown("--quiet", *arguments, folder=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert ldmdown("-q", "info", "none").stderr.startswith("none: no such checkpoint\n")


def test_shells_complete_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in (("_LDMDOWN_COMPLETE", "complete_bash"), ("COMP_WORDS", "ldmdown do"), ("COMP_CWORD", "1")):
        monkeypatch.setenv(variable, text)
    assert ldmdown().stdout.split() == ["downscale"]


def test_a_twin_that_ends_before_it_starts(tmp_path: Path) -> None:
    done = ldmdown("twin", "-o", str(tmp_path), "--start", "2021-02-01", "--end", "2021-01-01")
    assert done.returncode == 1 and done.stderr.startswith("--end: is before --start\n")
    done = ldmdown("request", "--start", "2021-02-30", "--end", "2021-03-01")
    assert done.returncode == 1 and done.stderr.startswith("--start/--end: is not a time\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["first", "import", "work"])
def test_a_signal_to_stop_is_one_line(number: signal.Signals, code: int, moment: str) -> None:
    """While the command line is imported, while a library turns it into an error of its own, and in a command."""
    if moment == "first" and number == signal.SIGTERM:
        pytest.skip("ends the process at once, which has nothing to tidy up yet")
    stop = f"os.kill(os.getpid(), {number.value})"
    hidden = f"try:\n    {stop}\n    time.sleep(9)\n  except KeyboardInterrupt:\n    raise ImportError from None"
    when = {
        "first": f"class Stop:\n def find_spec(name, *_):\n  name == 'ldmdown.cli' and {stop}\n"
        "sys.meta_path.insert(0, Stop)",
        "import": f"from ldmdown import cli\ndef app(**_):\n  {hidden}\ncli.app = app",
        "work": f"from ldmdown import cli\ndef app(**_):\n  {stop}\n  time.sleep(9)\ncli.app = app",
    }[moment]
    program = f"import os, sys, time\nfrom ldmdown.__main__ import main\n{when}\nmain()"
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code and done.stderr == f"{STOPPED}\n"
