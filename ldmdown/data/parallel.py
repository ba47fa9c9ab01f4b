"""Tasks side by side: in processes of this machine, or on the workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ldmdown.errors import LdmdownError

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}  # threads that wait leave the core to others
STOPPED_TIDILY = (
    "ignore:resource_tracker:UserWarning"  # of Python's, that it tidied up after processes which were killed
)


def workers() -> int:
    """Number of cores that this process may run on, and so of processes that run side by side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

    Args:
        function: of a module, so that other processes find it; all of them must see what it reads and writes.
        processes: of this machine, side by side; None: one for each core.
        threads: that each process computes in.
        scheduler: address of a Dask scheduler, whose workers are used instead.
        advance: called after each item.

    Raises LdmdownError if `distributed` is not installed, or there is no scheduler at the address.
    """
    if scheduler is not None:
        return _on_cluster(function, items, scheduler, advance)
    return list(stream(function, items, processes=processes, threads=threads, advance=advance))


def stream(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    processes: int | None = None,
    threads: int = 1,
    advance: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """Give the results of `run` on this machine one by one, so that none is kept after its use.

    Raises LdmdownError if a process was ended from outside, and what the function raises.
    """
    count = min(processes or workers(), len(items))
    with _threads_each(threads):
        if count <= 1:
            for item in items:
                yield function(item)
                advance()
            return
        context = multiprocessing.get_context("spawn")  # threads and open files do not survive a fork
        with ProcessPoolExecutor(count, context, initializer=_end_with_parent) as pool:

            def after(done: Future[Any]) -> None:
                if not done.cancelled() and done.exception() is None:
                    advance()

            futures = deque(pool.submit(function, item) for item in items)
            for future in futures:
                future.add_done_callback(after)
            try:
                while futures:
                    yield futures.popleft().result()
            except BrokenProcessPool:
                fix = "if it was memory, use fewer processes; run it again to go on"
                raise LdmdownError("a process", "was ended from outside, or by the system", fix=fix) from None
            except LdmdownError as error:
                raise error from None  # without the worker's traceback
            finally:
                for future in futures:
                    future.cancel()


@contextmanager
def _threads_each(count: int) -> Iterator[None]:
    """Let processes that start meanwhile compute in so many threads each, since they share the cores."""
    settings = dict.fromkeys(THREADS, str(count)) | WAITING
    settings["PYTHONWARNINGS"] = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), STOPPED_TIDILY)))
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
        futures = client.map(function, items, pure=False)
        for future in as_completed(futures):
            future.result()
            advance()
        return client.gather(futures)
