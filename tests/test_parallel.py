"""Tasks in processes: results in order, errors as they were raised, one thread each."""

from __future__ import annotations

import os

import pytest

from ldmdown.data import parallel
from ldmdown.errors import LdmdownError


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
