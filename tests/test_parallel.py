"""Tasks in processes: results in order, errors as they were raised, one thread each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ldmdown.data import parallel
from ldmdown.errors import STOPPED, LdmdownError


def square(number: int) -> tuple[int, int, str | None]:
    if number == 7:
        raise LdmdownError("seven", "is refused")
    return number**2, os.getpid(), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen: list[int] = []
    results = parallel.run(square, range(5), processes=processes, advance=lambda: seen.append(1))
    assert [result[0] for result in results] == [0, 1, 4, 9, 16] and len(seen) == 5
    assert {result[2] for result in results} == {"1"} and "OMP_NUM_THREADS" not in os.environ
    assert all((result[1] == os.getpid()) == (processes == 1) for result in results)
    with pytest.raises(LdmdownError, match=r"^seven: is refused$"):
        parallel.run(square, [1, 7, 2], processes=processes)
    assert parallel.run(square, []) == []


def alive(number: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    status = Path(f"/proc/{number}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, number: signal.Signals) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\nfrom pathlib import Path\nfrom ldmdown import cli\nfrom ldmdown.data import parallel\n"
        "def wait(folder):\n    Path(folder, str(os.getpid())).touch()\n    time.sleep(900)\n"
        "if __name__ == '__main__':\n"
        "    cli.app = lambda **_: parallel.run(wait, [sys.argv[1]] * 2, processes=2)\n    cli.main()\n"
    )
    folder = tmp_path / "pids"
    folder.mkdir()
    with subprocess.Popen([sys.executable, str(program), str(folder)], stderr=subprocess.PIPE, text=True) as parent:
        while len(pids := [int(one.name) for one in folder.iterdir()]) < 2:
            time.sleep(0.05)
        parent.send_signal(number)
        _, said = parent.communicate()
    assert said == ("" if number == signal.SIGKILL else f"{STOPPED}\n")
    end = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def end(code: int) -> None:
    os._exit(code)


def test_a_process_that_the_system_ends_is_told() -> None:
    with pytest.raises(LdmdownError, match="a process: was ended from outside, or by the system"):
        parallel.run(end, [1, 1], processes=2)
