"""Start-up of `ldmdown downscale`: what one hour takes from cold beside its networks, as multiples of `import torch`.

    OMP_NUM_THREADS=1 python tests/benchmarks/startup.py [ROUNDS]

Seconds of CPU of fresh processes in turn, the least of each over the rounds. A second hour takes what the networks take
for one, so that one hour less the difference of two and one is all the rest.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ERA5 = Path(__file__).parents[2] / "examples" / "era5_italy.nc"
FIRST = "2022-01-15T09", "2022-01-15T10"


def seconds(*command: str) -> float:
    """Seconds of CPU of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    """Print a line for each measure."""
    with tempfile.TemporaryDirectory() as folder:
        out = ["-o", str(Path(folder) / "out.nc"), "--overwrite", "--bbox", "12", "41", "13", "42"]
        runs = {
            "import torch": ("-c", "import torch"),
            "import ldmdown.commands.downscale": ("-c", "import ldmdown.commands.downscale"),
            "--help": ("-m", "ldmdown", "--help"),
            "one hour": ("-m", "ldmdown", "downscale", str(ERA5), *out, "--end", FIRST[0]),
            "two hours": ("-m", "ldmdown", "downscale", str(ERA5), *out, "--end", FIRST[1]),
        }
        taken = [{name: seconds(*command) for name, command in runs.items()} for _ in range(rounds)]
    least = {name: min(one[name] for one in taken) for name in runs}
    least["one hour without its networks"] = 2 * least["one hour"] - least["two hours"]
    for name, value in least.items():
        print(f"{name:34} {value:6.2f} s  {value / least['import torch']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
