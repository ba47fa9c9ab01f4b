"""Start-up of `ldmdown downscale`: what one hour takes from cold beside its networks, as multiples of `import torch`.

    OMP_NUM_THREADS=1 python tests/benchmarks/startup.py [ROUNDS]

Seconds of CPU of fresh processes in turn, the least of each over the rounds. The networks' time is that of an hour in a
process that has computed others before.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import ldmdown
from ldmdown.data.reading.fields import open_fields
from ldmdown.options import DownscaleOptions

ERA5 = Path(__file__).parents[2] / "examples" / "era5_italy.nc"
BOX = (12, 41, 13, 42)


def seconds(*command: str) -> float:
    """Seconds of CPU of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def networks() -> float:
    """Seconds of CPU of an hour, the least of several in this process."""
    system = ldmdown.load("italy", "cpu")
    with open_fields([ERA5], system.inputs) as era5, ThreadPoolExecutor(1) as reader:
        one = system.job(era5, DownscaleOptions(bbox=BOX)).predictors[0]
        finished = [time.process_time()]
        finished += [time.process_time() for _ in one.run(one.predictors(era5), range(len(era5)), reader)]
    return min(after - before for before, after in pairwise(finished))


def main(rounds: int) -> None:
    """Print a line for each measure."""
    with tempfile.TemporaryDirectory() as folder:
        out = ["-o", str(Path(folder) / "out.nc"), "--overwrite", "--bbox", *map(str, BOX), "--end", "2022-01-15T09"]
        runs = {
            "import torch": ("-c", "import torch"),
            "import ldmdown.commands.downscale": ("-c", "import ldmdown.commands.downscale"),
            "--help": ("-m", "ldmdown", "--help"),
            "one hour": ("-m", "ldmdown", "downscale", str(ERA5), *out),
        }
        taken = [{name: seconds(*command) for name, command in runs.items()} for _ in range(rounds)]
    least = {name: min(one[name] for one in taken) for name in runs} | {"its networks": networks()}
    least["one hour beside its networks"] = least["one hour"] - least["its networks"]
    for name, value in least.items():
        print(f"{name:34} {value:6.2f} s  {value / least['import torch']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
