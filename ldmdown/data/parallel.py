"""Tasks side by side: in processes of this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from typing import Any

import dask
from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

from ldmdown.errors import LdmdownError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave the core to others


def workers() -> int:
    """Number of processes that this machine runs side by side."""
    return os.cpu_count() or 1


def run(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    processes: int | None = None,
    threads: int = 1,
    scheduler: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Call `function` with each item and return the results in their order; the first error ends the run.

    Parameters
    ----------
    function
        may be called twice for an item whose worker died; all workers must see what it reads and writes.
    processes
        of this machine, side by side; None: one for each core.
    threads
        that each process computes in.
    scheduler
        address of a Dask scheduler, whose workers are used instead.
    advance
        called after each item.

    Raises
    ------
    LdmdownError
        if `distributed` is not installed, or there is no scheduler at the address.
    """
    if scheduler is not None:
        return _on_cluster(function, items, scheduler, advance)
    tasks = [delayed(_alone, pure=False)(function, item) for item in items]
    keys = {task.key for task in tasks}

    def after(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        if key in keys:
            advance()

    count = min(processes or workers(), len(items))
    with Callback(posttask=after), _threads_each(threads):
        try:
            kind = "processes" if count > 1 else "synchronous"
            return list(compute(*tasks, scheduler=kind, num_workers=count, chunksize=1, optimize_graph=False))
        except BrokenProcessPool:
            fix = "if it was memory, use fewer processes; run it again to go on"
            raise LdmdownError("a process", "was ended from outside, or by the system", fix=fix) from None
        except LdmdownError as error:
            raise getattr(error, "exception", error) from None  # without the worker's traceback


@contextmanager
def _threads_each(count: int) -> Iterator[None]:
    """Let processes that start meanwhile compute in so many threads each, since they share the cores."""
    settings = dict.fromkeys(THREADS, str(count)) | WAITING
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@cache
def _end_with_parent() -> None:
    """Let this process end with the one that started it, which alone heeds Ctrl-C; it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()


def _alone(function: Callable[[Any], Any], item: Any) -> Any:
    """Call `function` in this thread, however the files that it opens would be read."""
    _end_with_parent()
    with dask.config.set(scheduler="synchronous"):
        return function(item)


def _on_cluster(function: Callable[[Any], Any], items: Sequence[Any], address: str, advance: Callable[[], None]) -> Any:
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise LdmdownError(
            "--scheduler",
            "needs a package that is not installed",
            found="no `distributed`",
            fix="pip install 'ldmdown[cluster]'",
        ) from None
    try:
        client = Client(address, timeout=30, set_as_default=False)
    except (OSError, ValueError) as error:
        fix = "give the address that `dask scheduler` prints, such as tcp://host:8786"
        raise LdmdownError(address, "no Dask scheduler at this address", found=str(error), fix=fix) from None
    with client, client.as_current():
        futures = client.map(_alone, [function] * len(items), items, pure=False)
        for future in as_completed(futures):
            future.result()
            advance()
        return client.gather(futures)
