"""`ldmdown train`: the stages of a configuration in their order, each from the ones before.

What a stage is, is in training/stages; the loop that fits it in training/loop and a step of it in
training/learner; the folder of a run in training/run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from ldmdown import checkpoint, runtime
from ldmdown.atomic import locked, replacing, sha256
from ldmdown.config import Config, load_config
from ldmdown.console import progress_bar, say
from ldmdown.data.archive.manifest import fingerprint as archive_fingerprint
from ldmdown.data.archive.store import Archive
from ldmdown.errors import LdmdownError
from ldmdown.header import find
from ldmdown.models.downscaler import Downscaler
from ldmdown.models.sampling import Sampler
from ldmdown.scoring.training_truth import learned_from
from ldmdown.training import heldout, latents, loop, report
from ldmdown.training.batches import CropSource, field_source, latent_source, middle_crop
from ldmdown.training.hours import HourSet
from ldmdown.training.run import Run, load, on_disk
from ldmdown.training.stages import STUDENT, Command, Stage, fingerprint, stages_of, trained_by


def train(
    config_path: Path | None = None, command: Command = "all", resume: bool = False, batch_size: int | None = None
) -> None:
    """Train the stages of a configuration that are not finished, and write the checkpoint and the run's report.

    `batch_size` crops go through the networks at once in each process; None: as many as fit in memory. The
    configuration's batch is kept by adding up gradients.

    Raises LdmdownError if the archive is missing or another configuration's, a stage was stopped and `resume` is not
    given, a stage before is missing, or another process writes to the folder of the run; or as `loop.fit`.
    """
    config, root = load_config(config_path)
    with (
        on_disk(root),
        runtime.processes() as processes,
        locked(root / config.train.run) if processes.first else nullcontext(),
        progress_bar("steps") as progress,
    ):
        training = Training(config, root, config_path or root, processes, progress)
        wanted = trained_by(training.stages, command)
        needed = {*wanted, *(before for stage in wanted for before in stage.before)}
        for stage in training.stages:
            if stage not in needed:
                continue
            if training.load_finished(stage):
                say(f"{stage.name}: finished before, kept ({training.run.state_path(stage.name)})")
            elif stage in wanted:
                training.fit(stage, resume=resume, micro_batch=batch_size)
            else:
                raise LdmdownError(
                    training.run.state_path(stage.name),
                    f"the {stage.name} stage comes first and is not finished",
                    fix=f"run `ldmdown train --stage {stage.command}`, or without --stage",
                )
            training.measure(stage)
            if stage.checkpoint:
                written = training.save(stage)
            training.report()
        say(f"the run's report: {training.run.folder / 'report.html'}")
        say(f"wrote {written}; use it so:")
        say(f"ldmdown downscale era5.nc -o out.nc --checkpoint {written.stem if root == Path() else written}")


class Training:
    """A configuration, its archive, the model as far as it is trained, its stages, and the folder of the run."""

    def __init__(
        self, config: Config, root: Path, label: Path, processes: runtime.Processes, progress: Progress
    ) -> None:
        self.config, self.processes, self.progress = config, processes, progress
        self.archive = Archive(root / config.data.archive)
        weights = [pair.weight for pair in config.data.pairs]
        self.hours = {use: HourSet(self.archive, use, weights) for use in ("train", "validation")}
        self.checkpoints = root / "checkpoints"
        torch.manual_seed(config.train.seed)
        model = checkpoint.build(config, self.archive.normalization, "ldm")
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        start = self._initial_weights(model, root)
        if self.archive.statics:
            model.statics[: len(self.archive.statics)] = torch.from_numpy(self.archive.load_statics())
            model.make_terrain_fields()
        self.model = model.to(processes.device).eval().requires_grad_(False)
        self.stages = stages_of(config, self.archive.normalization, self.model)
        self._check(label)
        normalization = {kind: asdict(values) for kind, values in self.archive.normalization.items()}
        basis = [self.archive.fingerprint, normalization, config.train.seed, start]
        fingerprints = {stage.name: fingerprint(stage, basis) for stage in self.stages}
        self.run = Run(root / config.train.run, config, processes, fingerprints)

    def _initial_weights(self, model: Downscaler, root: Path) -> str | None:
        """Take the weights that fit from the checkpoint `train.init_from`; its hash."""
        name = self.config.train.init_from
        if name is None:
            return None
        path = root / name if (root / name).is_file() else find(name)
        taken = checkpoint.take_fitting(path, model)
        if not taken:
            raise LdmdownError(
                path,
                "has no weights that fit the networks of the configuration",
                fix=f"leave out train.init_from, or give the networks the sizes that `ldmdown info {name}` prints",
            )
        say(f"{taken} of {len(model.state_dict())} tensors start from {path}")
        return sha256(path)

    def _check(self, label: Path) -> None:
        ours, theirs = archive_fingerprint(self.config), self.archive.fingerprint
        for key in ("grid", "predictors", "targets", "split", "statics"):
            if theirs[key] != ours[key]:
                raise LdmdownError(
                    self.archive.path,
                    f"was prepared with another `{key}`",
                    found=str(theirs[key]),
                    expected=str(ours[key]),
                    fix="delete it and run `ldmdown prepare`, or restore the configuration",
                )
        multiple = self.model.size_multiple
        sides: dict[str, tuple[int, ...]] = {"grid": self.archive.grid.coarse.shape}
        sides |= {f"train.{stage.name}.crop": (stage.settings.crop,) for stage in self.stages}
        for key, numbers in sides.items():
            if any(number % multiple for number in numbers):
                raise LdmdownError(
                    label,
                    f"{key}: these networks need coarse cells in multiples of {multiple}",
                    found=" x ".join(map(str, numbers)),
                    fix="change it, or give the networks fewer levels",
                )

    def load_finished(self, stage: Stage) -> bool:
        """Take the weights of a finished stage into the model; False if it is not finished."""
        state = self.run.load_state(stage.name)
        if state is None or not state.finished:
            return False
        stage.load(load(self.run.best_path(stage.name))["tensors"])
        return True

    def fit(self, stage: Stage, *, resume: bool, micro_batch: int | None) -> None:
        """Train a stage."""
        sources = self.sources(stage)
        self.processes.wait()  # what is on the disk decided what each has done
        show = partial(self._show, stage)
        loop.fit(stage, sources, self.run, self.progress, show=show, resume=resume, micro_batch=micro_batch)

    def sources(self, stage: Stage) -> dict[str, CropSource]:
        """Crops that a stage learns from and is validated on; latents are made first."""
        if stage.learns_from == "target":
            return {use: field_source(hours, self.processes) for use, hours in self.hours.items()}
        made = self._latents(stage)
        return {use: latent_source(hours, made[use], self.processes) for use, hours in self.hours.items()}

    def _latents(self, stage: Stage) -> dict[str, torch.Tensor]:
        """Latents of the hours of each set for the mean and autoencoder that a stage builds on, made once."""
        made_by = [before for before in stage.before if before.learns_from == "target"][-1]
        folder, start = self.run.folder, f"latents-{self.config.name}-"
        path = folder / f"{start}{self.run.fingerprints[made_by.name][:8]}.npy"
        if not path.exists():
            if self.processes.first:
                for old in set(folder.glob(f"{start}*")) - {path.with_suffix(".part")}:
                    old.unlink()
            total = -(-sum(map(len, self.hours.values())) // self.processes.size)
            task = self.progress.add_task("latents", total=total)
            latents.write(path, self.hours, stage, self.processes, lambda: self.progress.advance(task))
        return latents.load(path, self.hours)

    def measure(self, stage: Stage) -> None:
        """Measure what a finished stage is worth, once, and calibrate it; kept beside its state."""
        if not stage.measures:
            return
        path = self.run.measured_path(stage.name)
        if self.processes.first and not path.exists():
            ways: dict[str, Callable[[], Any]] = {
                "temporal_correlation": lambda: heldout.coherence(
                    self.model, self.hours["train"], self._latents(stage)["train"], self.processes
                ),
                "latent_gain": partial(self._spread_gain, stage, stage.diffusion_sampler),
                "student_gain": partial(self._spread_gain, stage, STUDENT),
                "reconstruction": lambda: heldout.reconstruction(
                    self.model, self.hours["validation"], self.processes.device
                ),
                "scores": lambda: heldout.crop_scores(stage, self.archive, self.processes),
            }
            measured: dict[str, Any] = {}
            for name in stage.measures:
                measured[name] = ways[name]()
                self.model.take_gains(measured)
            with replacing(path) as new:
                new.write_text(json.dumps(measured, indent=2))
            if warning := heldout.warning(measured.get("reconstruction", {})):
                say(warning)
        self.processes.wait()
        self.model.take_gains(json.loads(path.read_text()))

    def _spread_gain(self, stage: Stage, sampler: Sampler) -> list[float]:
        """The gain of a sampler, which is fitted on days that the mean did not learn from.

        With cross-fitting the training days are among them.
        """
        latents = self._latents(stage)
        uses = ("validation",) if stage.cross_fit is None else ("validation", "train")
        days = [(self.hours[use], latents[use]) for use in uses]
        return heldout.spread_gain(stage, sampler, days, self.processes)

    def save(self, stage: Stage) -> Path:
        """Write the checkpoint of all that is trained up to a stage, unless a later one has; say where."""
        path = self.checkpoints / f"{self.config.name}{stage.suffix}.safetensors"
        later = [one for one in self.stages if stage in one.before and one.checkpoint and one.suffix == stage.suffix]
        states = [self.run.known_state(one.name) for one in later]
        if self.processes.first and not any(state and state.finished for state in states):
            assert stage.checkpoint is not None
            config, normalization = stage.config_without_later, self.archive.normalization
            measured: dict[str, Any] = {}
            for one in (*stage.before, stage):
                if one.checkpoint == stage.checkpoint:
                    measured |= json.loads(self.run.measured_path(one.name).read_text())
            model = checkpoint.build(config, normalization, stage.checkpoint)
            weights = self.model.state_dict()
            model.load_state_dict({key: weights[key] for key in model.state_dict()})
            training = self._provenance(stage)
            header = checkpoint.header_of(
                config,
                normalization,
                stage.checkpoint,
                training=training,
                statics_normalization=self.archive.statics_normalization,
                **self._learned_from,
                **measured,
            )
            checkpoint.save(path, model, header)
        self.processes.wait()
        return path

    @cached_property
    def _learned_from(self) -> dict[str, Any]:
        """What the fields look like that it learns from: as `prepare` measured, or measured of an older archive."""
        return self.archive.manifest.get("learned_from") or learned_from(self.archive)

    def _provenance(self, stage: Stage) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        config = self.config
        twin = {"twin": self.archive.manifest["twin"]} if config.twin else {}
        states = {one.name: self.run.load_state(one.name) for one in (*stage.before, stage)}
        return {
            **twin,
            "periods": [period for one in self.archive.sources for period in one.split["train"]],
            "coarse": {one.name: one.coarse for one in self.archive.sources},
            "hours": len(self.hours["train"]),
            "steps": {name: state.best_step for name, state in states.items() if state},
            "ema": {name: state.best_ema for name, state in states.items() if state},
            "validation_loss": {name: state.best_loss for name, state in states.items() if state},
        }

    def _show(self, stage: Stage, step: int) -> None:
        """A picture of a validation hour in the middle of the domain, after a step of a stage."""
        batch = middle_crop(self.hours["validation"], stage.settings.crop, self.processes.device)
        if fields := heldout.generate_samples(stage, batch, members=2):
            path = self.run.folder / "pictures" / f"{stage.name}-{step:06d}.png"
            report.picture(path, fields, self.config.targets, f"{stage.name}, step {step}")

    def report(self) -> None:
        """Write the page of the run so far."""
        if self.processes.first:
            states = {stage.name: self.run.known_state(stage.name) for stage in self.stages}
            measured = {stage.name: self.run.measured_path(stage.name) for stage in self.stages}
            report.write(self.run.folder, self.config.name, states, measured)
