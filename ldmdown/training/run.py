"""The folder of a training run: configuration, environment, losses, states to go on from, best weights, pictures.

Only the first process writes. Whatever is replaced is written beside and renamed, so that a kill or a full disk
leaves the last complete one.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from ldmdown.config import Config
from ldmdown.errors import LdmdownError
from ldmdown.runtime import Processes

VERSIONS = ("ldmdown", "torch", "numpy", "zarr", "pydantic")
State = dict[str, Any]


class Run:
    """A run's folder, in the hands of one of its processes."""

    def __init__(self, folder: Path, config: Config, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
            (folder / "environment.json").write_text(json.dumps(environment(processes), indent=2))
        processes.wait()

    def say(self, text: str) -> None:
        """On stderr, once for all processes."""
        if self.processes.first:
            print(text, file=sys.stderr)

    def state_path(self, stage: str) -> Path:
        """What a stage goes on from, with its last weights."""
        return self.folder / f"{stage}.state.pt"

    def best_path(self, stage: str) -> Path:
        """A stage's averaged weights of the best validation."""
        return self.folder / f"{stage}.best.pt"

    def load_state(self, stage: str, fingerprint: str) -> State | None:
        """What a stage last wrote, its tensors still on the disk; None if it has not begun.

        Raises
        ------
        LdmdownError
            if it is of another configuration.
        """
        state = self.known_state(stage, fingerprint)
        if state is None and self.state_path(stage).exists():
            raise LdmdownError(
                self.state_path(stage),
                f"the {stage} stage was begun with another configuration or archive",
                fix="delete it to train this stage anew, or restore the configuration",
            )
        return state

    def known_state(self, stage: str, fingerprint: str) -> State | None:
        """The same, and None too if it is of another configuration."""
        path = self.state_path(stage)
        state = load(path) if path.exists() else None
        return state if state and state["fingerprint"] == fingerprint else None

    def write(self, path: Path, content: State) -> None:
        """Beside and renamed; all processes wait for it."""
        if self.processes.first:
            beside = path.with_suffix(".tmp")
            try:
                with beside.open("wb") as file:
                    torch.save(content, file)
            except OSError:
                beside.unlink()
                raise
            beside.replace(path)
        self.processes.wait()


@contextlib.contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Say so where the disk is full, whatever was being written.

    Raises
    ------
    LdmdownError
        if it is.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise LdmdownError(
            getattr(error, "filename", None) or folder,
            "the disk is full; what was written before is intact",
            found=f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free",
            fix="make room, then go on with `ldmdown train --resume`",
        ) from None


def load(path: Path) -> State:
    """A file of `Run.write`; tensors stay on the disk until they are used."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def environment(processes: Processes) -> dict[str, Any]:
    """What a run was made with."""
    device = processes.device
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in VERSIONS},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "processes": processes.size,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "command": sys.argv,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


class Losses:
    """A stage's CSV, a row a step, cut back to the step from which it goes on; and TensorBoard where installed."""

    def __init__(self, run: Run, stage: str, step: int) -> None:
        self.path, self.speed, self.last = run.folder / f"{stage}.csv", 0.0, math.nan
        self._levels = run.folder / f"{stage}-levels.csv"
        self._processes, self._stage = run.processes, stage
        self._noted: list[tuple[int, Tensor, float]] = []
        self._started = time.perf_counter()
        self._board = _board(run, step) if run.processes.first else None
        if run.processes.first:
            _cut_back(self.path, "step,loss,validation,rate,crops_per_second", step)
            if self._levels.exists():
                _cut_back(self._levels, self._levels.read_text().split("\n", 1)[0], step)

    def note(self, step: int, loss: Tensor, rate: float) -> None:
        """Keep the loss of a step, which stays on the device."""
        self._noted.append((step, loss, rate))

    def read(self, batch: int) -> float:
        """Wait for the device; the mean of what was noted, over all processes."""
        values = self._processes.mean(torch.stack([loss for _, loss, _ in self._noted]))
        self._noted = [
            (step, value, rate) for (step, _, rate), value in zip(self._noted, values.cpu().unbind(), strict=True)
        ]
        self.last = float(values.mean())
        self.speed = batch * len(self._noted) / (time.perf_counter() - self._started)
        return self.last

    def write(self, validation: float | None = None, levels: Mapping[str, float] | None = None) -> None:
        """Append what was read, with the validation loss of the last step, also by level of noise."""
        if self._processes.first:
            last = self._noted[-1][0]
            rows = [
                (step, f"{float(loss):.8g}", "" if validation is None or step < last else f"{validation:.8g}",
                 f"{rate:.4g}", f"{self.speed:.4g}")
                for step, loss, rate in self._noted
            ]  # fmt: skip
            _append(self.path, rows)
            if levels:
                if not self._levels.exists():
                    _append(self._levels, [("step", *levels)])
                _append(self._levels, [(last, *(f"{value:.6g}" for value in levels.values()))])
            self._show(last, validation, levels or {})
        self._noted.clear()
        self._started = time.perf_counter()

    def _show(self, last: int, validation: float | None, levels: Mapping[str, float]) -> None:
        if self._board is None:
            return
        for step, loss, rate in self._noted:
            self._board.add_scalar(f"{self._stage}/loss", float(loss), step)
            self._board.add_scalar(f"{self._stage}/rate", rate, step)
        if validation is not None:
            self._board.add_scalar(f"{self._stage}/validation", validation, last)
        for name, value in levels.items():
            self._board.add_scalar(f"{self._stage}/validation at times {name}", value, last)
        self._board.flush()


def _board(run: Run, step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=step + 1)


def _cut_back(path: Path, header: str, step: int) -> None:
    rows = path.read_text().splitlines(keepends=True)[1:] if step else []
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",")[0]) <= step]
    path.write_text("".join([header + "\n", *kept]))


def _append(path: Path, rows: list[tuple[Any, ...]]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read_losses(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV of losses by name; what is empty is NaN."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
