"""Everything that a checkpoint makes of an hour: its mean, its members, and what they are judged by.

Scaled white noise is a draw without the diffusion: the mean and the predicted scale alone. A reconstruction is the
truth through the autoencoder and back, which shows what the latents can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldmdown.checkpoint import Checkpoint
from ldmdown.data.grid import rotate_to_earth
from ldmdown.inference import Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.models.vae import VAE
from ldmdown.runtime import autocast
from ldmdown.scoring.scorecard import Kind

Fields = NDArray[np.float32]  # (member, variable, rows, cols)

MEAN_PARTS = ("unet", "statics")  # of a model, that make its mean
MEMBERS_AT_ONCE = {"cpu": 4, "cuda": 16}  # by device


class Products:
    """Checkpoints that together make one system."""

    def __init__(self, checkpoints: Sequence[Checkpoint], members: int, seed: int) -> None:
        self.label = "+".join(one.path.stem for one in checkpoints)
        self.names = tuple(name for one in checkpoints for name in one.config.targets)
        self._makers = []
        for one in checkpoints:
            options = SamplingOptions(members, seed, default_sampler(one), measured_correlation(one))
            batch_size = MEMBERS_AT_ONCE[one.model.statics.device.type]
            self._makers.append(_Product(Predictor(one, one.grid.whole, options, "auto", batch_size)))

    @property
    def kinds(self) -> list[Kind]:
        """What all of them make."""
        return [kind for kind in self._makers[0].kinds if all(kind in one.kinds for one in self._makers)]

    def same_mean(self, other: Products) -> bool:
        """Whether the U-Nets are the same."""
        return len(self._makers) == len(other._makers) and all(
            mine.same_mean(theirs) for mine, theirs in zip(self._makers, other._makers, strict=True)
        )

    def make(self, predictors: dict[str, Any], truth: NDArray[np.float32], hour: int) -> dict[Kind, Fields]:
        """By kind, of an hour's predictors and, for reconstructions, its truth (variable, rows, cols)."""
        made, start = [], 0
        for one in self._makers:
            targets = one.runner.checkpoint.config.targets
            made.append(one.make(predictors, truth[start : start + len(targets)], hour))
            start += len(targets)
        return {kind: np.concatenate([part[kind] for part in made], axis=1) for kind in self.kinds}


class _Product:
    """One checkpoint at work on the whole domain."""

    def __init__(self, runner: Predictor) -> None:
        self.runner = runner
        stage, model = runner.checkpoint.stage, runner.model
        kinds: dict[Kind, bool] = {
            "gan": stage == "gan",
            "mean": stage != "gan",
            "white noise": stage == "ldm" and model.scale is not None and model.residual,
            "member": stage == "ldm",
            "ensemble mean": stage == "ldm" and runner.options.members > 1,
            "reconstruction": stage == "ldm" and isinstance(model.autoencoder, VAE),
        }
        self.kinds = [kind for kind, made in kinds.items() if made]

    def same_mean(self, other: _Product) -> bool:
        """Whether the U-Nets are the same."""
        ours, theirs = (
            {name: part for name, part in one.runner.model.state_dict().items() if name.split(".")[0] in MEAN_PARTS}
            for one in (self, other)
        )
        return ours.keys() == theirs.keys() and all(torch.equal(part, theirs[name]) for name, part in ours.items())

    @torch.inference_mode()
    def make(self, predictors: dict[str, Any], truth: NDArray[np.float32], hour: int) -> dict[Kind, Fields]:
        """By kind, each (member, variable, rows, cols)."""
        runner, model = self.runner, self.runner.model
        coarse = np.stack([predictors[name] for name in runner.checkpoint.config.predictors])
        with autocast(runner.device, runner.precision):
            given = runner.normalized(coarse)[None]
            mean = model.mean(given, runner.statics)
            if "gan" in self.kinds:
                return {"gan": runner.physical(mean)}
            made: dict[Kind, Fields] = {"mean": runner.physical(mean)}
            if "member" not in self.kinds:
                return made
            base = mean if model.residual else torch.zeros_like(mean)
            condition = model.condition(given, runner.statics)
            drawn = base, condition, runner.noise([hour])
            made["member"] = runner.physical(runner.members(*drawn)[0])
            if "white noise" in self.kinds:
                made["white noise"] = runner.physical(runner.members(*drawn, scaled_noise=True)[0])
            if "ensemble mean" in self.kinds:
                made["ensemble mean"] = made["member"].mean(axis=0, keepdims=True)
            if "reconstruction" in self.kinds:
                made["reconstruction"] = self._reconstruct(base, truth)
        return made

    def _reconstruct(self, base: Tensor, truth: NDArray[np.float32]) -> Fields:
        """The truth through the autoencoder and back: what its latents can hold."""
        runner, targets = self.runner, self.runner.checkpoint.config.targets
        if runner.grid_rotation is not None and {"u10", "v10"} <= set(targets):
            u, v = (targets.index(name) for name in ("u10", "v10"))
            truth = truth.copy()
            truth[u], truth[v] = rotate_to_earth(truth[u], truth[v], -runner.grid_rotation)
        normalized = runner.checkpoint.normalization["target"].normalize(truth, targets)
        autoencoder = runner.model.autoencoder
        assert autoencoder is not None
        latent = autoencoder.encode(torch.from_numpy(normalized).to(runner.device)[None] - base)
        return runner.physical(base + autoencoder.decode(latent).float())
