"""The folder of a training run: configuration, environment, losses, states to resume from, best weights, pictures.

Only the first process writes.
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
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from ldmdown.atomic import replacing
from ldmdown.config import Config
from ldmdown.errors import LdmdownError
from ldmdown.runtime import Processes

FULL_DISK = (os.strerror(errno.ENOSPC), "unexpected pos")  # as the system says it, and torch.save
VERSIONS = ("ldmdown", "torch", "numpy", "zarr", "pydantic")


@dataclass
class State:
    """How far a stage has come; its tensors are kept in the same file."""

    fingerprint: str
    processes: int
    step: int = 0
    finished: bool = False
    best_step: int = 0
    best_loss: float = math.inf
    best_ema: float = 0.0  # the decay of the best average
    bad_validations: int = 0  # in a row
    lr_scale: float = 1.0
    first_loss: float = math.nan
    rollbacks: int = 0
    events: list[str] = field(default_factory=list)
    micro_batch: int | None = None  # crops that go through the networks at once in each process
    checkpointing: bool = False


class Run:
    """The folder of a run, as seen by one of its processes.

    Args:
        fingerprints: by stage, the hash of all that its weights depend on: a state with another one is of another
            configuration.
    """

    def __init__(self, folder: Path, config: Config, processes: Processes, fingerprints: Mapping[str, str]) -> None:
        self.folder = folder
        self.processes = processes
        self.fingerprints = fingerprints
        if processes.first:
            written = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            about = {"config.yaml": written, "environment.json": json.dumps(environment(processes), indent=2)}
            for name, text in about.items():
                with replacing(folder / name) as beside:
                    beside.write_text(text)
        processes.wait()

    def state_path(self, stage: str) -> Path:
        """The state that a stage resumes from, with its last weights."""
        return self.folder / f"{stage}.state.pt"

    def best_path(self, stage: str) -> Path:
        """The averaged weights of a stage's best validation."""
        return self.folder / f"{stage}.best.pt"

    def measured_path(self, stage: str) -> Path:
        """What was measured of a finished stage."""
        return self.folder / f"{stage}-{self.fingerprints[stage][:8]}.json"

    def load_state(self, stage: str) -> State | None:
        """The last state of a stage; None if it has not begun.

        Raises LdmdownError if it is of another configuration, or damaged.
        """
        state = self.known_state(stage)
        if state is None and self.state_path(stage).exists():
            raise LdmdownError(
                self.state_path(stage),
                f"the {stage} stage was begun with another configuration or archive",
                fix="delete it to train this stage anew, or restore the configuration",
            )
        return state

    def known_state(self, stage: str) -> State | None:
        """The last state of a stage; None if it has not begun or is of another configuration."""
        path = self.state_path(stage)
        content = load(path) if path.exists() else {}
        if content.get("fingerprint") != self.fingerprints[stage]:
            return None
        return State(**{part.name: content[part.name] for part in fields(State)})

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write a file of tensors and plain values; all processes wait until it is there."""
        if self.processes.first:
            with replacing(path) as new, new.open("wb") as file:
                torch.save(dict(content), file)
        self.processes.wait()


@contextlib.contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Turn the failure of any write to a full disk into a message. Raises LdmdownError if the disk is full."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not any(text in str(error) for text in FULL_DISK):
            raise
        raise LdmdownError(
            getattr(error, "filename", None) or folder,
            "the disk is full; what was written before is intact",
            found=f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free",
            fix="make room, then resume with `ldmdown train --resume`",
        ) from None


def load(path: Path) -> dict[str, Any]:
    """A file of `Run.write`; tensors stay on the disk until they are used. Raises LdmdownError if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise LdmdownError(
            path, "is damaged", found=str(error).splitlines()[0], fix="delete it to train this stage anew"
        ) from None


def environment(processes: Processes) -> dict[str, Any]:
    """Versions, device, command and time of a run."""
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
    """The losses of a stage as CSV, a row for each step, cut back to the step it resumes from; and in TensorBoard."""

    def __init__(self, run: Run, stage: str, step: int) -> None:
        self.path, self.speed = run.folder / f"{stage}.csv", 0.0
        self._bands = run.folder / f"{stage}-noise.csv"
        self._processes, self._stage = run.processes, stage
        self._noted: list[tuple[int, Tensor, float]] = []
        self._started = time.perf_counter()
        self._board = _board(run, step) if run.processes.first else None
        if run.processes.first:
            _cut_back(self.path, "step,loss,validation,learning_rate,crops_per_second", step)
            if self._bands.exists():
                _cut_back(self._bands, self._bands.read_text().split("\n", 1)[0], step)

    def note(self, step: int, loss: Tensor, learning_rate: float) -> None:
        """Keep the loss of a step, which stays on the device."""
        self._noted.append((step, loss, learning_rate))

    def read(self, batch: int) -> float:
        """Wait for the device; the mean of what was noted, over all processes."""
        steps, losses, rates = zip(*self._noted, strict=True)
        values = self._processes.mean(torch.stack(losses)).cpu()
        self._noted = list(zip(steps, values.unbind(), rates, strict=True))
        self.speed = batch * len(steps) / (time.perf_counter() - self._started)
        return float(values.mean())

    def write(self, validation: float | None = None, bands: Mapping[str, float] | None = None) -> None:
        """Append what was read, with the validation loss of the last step, also by bands of noise level."""
        if self._processes.first:
            last = self._noted[-1][0]
            for step, loss, rate in self._noted:
                shown = "" if validation is None or step < last else f"{validation:.8g}"
                _append(self.path, (step, f"{float(loss):.8g}", shown, f"{rate:.4g}", f"{self.speed:.4g}"))
            if bands:
                if not self._bands.exists():
                    _append(self._bands, ("step", *bands))
                _append(self._bands, (last, *(f"{value:.6g}" for value in bands.values())))
            self._show(last, validation, bands or {})
        self._noted.clear()
        self._started = time.perf_counter()

    def _show(self, last: int, validation: float | None, bands: Mapping[str, float]) -> None:
        if self._board is None:
            return
        for step, loss, rate in self._noted:
            self._board.add_scalar(f"{self._stage}/loss", float(loss), step)
            self._board.add_scalar(f"{self._stage}/learning rate", rate, step)
        if validation is not None:
            self._board.add_scalar(f"{self._stage}/validation", validation, last)
        for name, value in bands.items():
            self._board.add_scalar(f"{self._stage}/validation at noise levels {name}", value, last)
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


def _append(path: Path, row: tuple[Any, ...]) -> None:
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(row)


def read_losses(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV of losses by name; what is empty is NaN."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in (rows[0] if rows else ())}
