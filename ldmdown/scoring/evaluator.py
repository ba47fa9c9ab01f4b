"""Everything that a checkpoint makes of an hour: its mean, its members, and fields that they are judged by.

Scaled white noise is a draw without the diffusion: the mean and the predicted scale alone. A reconstruction is the
truth through the autoencoder and back, which shows what the latents can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldmdown.checkpoint import Checkpoint
from ldmdown.consistency import BoxConsistency
from ldmdown.data.grid import Window, rotate_to_earth
from ldmdown.inference import Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.models.vae import VAE
from ldmdown.runtime import autocast
from ldmdown.scoring.results import SystemKind
from ldmdown.typing import Float32Array

MEAN_PARTS = ("unet", "statics")  # of a model, that make its mean
DOWNSCALED: tuple[SystemKind, ...] = ("mean", "gan", "member")  # what `downscale` makes of a checkpoint of a stage
MEMBERS_AT_ONCE = {"cpu": 4, "cuda": 16}  # by device


class CheckpointGroup:
    """Checkpoints of different variables that together make one system.

    `consistency` corrects what `downscale` would correct.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        members: int,
        seed: int,
        window: Window,
        consistency: BoxConsistency | None = None,
    ) -> None:
        self.consistency = consistency
        self.label = "+".join(one.path.stem for one in checkpoints)
        self.names = tuple(name for one in checkpoints for name in one.config.targets)
        self._evaluators = []
        for one in checkpoints:
            options = SamplingOptions(members, seed, default_sampler(one), measured_correlation(one))
            batch_size = MEMBERS_AT_ONCE[one.model.statics.device.type]
            self._evaluators.append(CheckpointEvaluator(Predictor(one, window, options, "auto", batch_size)))

    @property
    def kinds(self) -> list[SystemKind]:
        """The kinds of fields that all of them make."""
        return [kind for kind in self._evaluators[0].kinds if all(kind in one.kinds for one in self._evaluators)]

    def same_mean(self, other: CheckpointGroup) -> bool:
        """Whether the U-Nets are the same, and corrected in the same way."""
        ways = [one.consistency and one.consistency.exact for one in (self, other)]
        ours, theirs = ([part for one in group._evaluators for part in one.mean_weights()] for group in (self, other))
        return ways[0] == ways[1] and len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))

    def make(
        self, predictors: dict[str, Any], truth: Float32Array, hour: int, era5: Mapping[str, Float32Array]
    ) -> dict[SystemKind, Float32Array]:
        """Make each kind of fields (member, variable, rows, cols) of an hour.

        `predictors` are (rows, cols) by name; `truth` (variable, rows, cols) is what a reconstruction starts from;
        `era5` (rows, cols) by name is on the boxes of `consistency`.
        """
        ends = np.cumsum([len(one.predictor.checkpoint.config.targets) for one in self._evaluators])
        parts = zip(self._evaluators, np.split(truth, ends[:-1]), strict=True)
        made = [one.make(predictors, part, hour) for one, part in parts]
        fields: dict[SystemKind, Float32Array] = {
            kind: np.concatenate([part[kind] for part in made], axis=1)
            for kind in self.kinds
            if kind != "ensemble mean"
        }
        for kind, field in fields.items():
            if kind in DOWNSCALED:
                self.keep(field, era5)
        if "ensemble mean" in self.kinds:
            fields["ensemble mean"] = fields["member"].mean(axis=0, keepdims=True)
        return fields

    def keep(self, fields: Float32Array, era5: Mapping[str, Float32Array]) -> None:
        """Correct fields (member, variable, rows, cols) in place by ERA5 on the boxes, if `downscale` would."""
        if self.consistency is not None:
            self.consistency.agree(fields, np.stack([era5[name] for name in self.consistency.names])[None])


class CheckpointEvaluator:
    """Everything that one checkpoint makes of an hour."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        stage, model = predictor.checkpoint.stage, predictor.model
        kinds: dict[SystemKind, bool] = {
            "gan": stage == "gan",
            "mean": stage != "gan",
            "white noise": stage == "ldm" and model.scale is not None and model.residual,
            "member": stage == "ldm",
            "ensemble mean": stage == "ldm" and predictor.options.members > 1,
            "reconstruction": stage == "ldm" and isinstance(model.autoencoder, VAE),
        }
        self.kinds = [kind for kind, made in kinds.items() if made]

    def mean_weights(self) -> list[Tensor]:
        """The weights of the U-Net and of its static fields."""
        weights = self.predictor.model.state_dict()
        return [part for name, part in weights.items() if name.split(".")[0] in MEAN_PARTS]

    @torch.inference_mode()
    def make(self, predictors: dict[str, Any], truth: Float32Array, hour: int) -> dict[SystemKind, Float32Array]:
        """Make fields (member, variable, rows, cols) of each kind but the ensemble mean."""
        predictor, model = self.predictor, self.predictor.model
        coarse = np.stack([predictors[name] for name in predictor.checkpoint.config.predictors])
        with autocast(predictor.device, predictor.precision):
            given = predictor.normalized(coarse)[None]
            mean = model.mean(given, predictor.statics)
            if "gan" in self.kinds:
                return {"gan": predictor.physical(mean)}
            made: dict[SystemKind, Float32Array] = {"mean": predictor.physical(mean)}
            if "member" not in self.kinds:
                return made
            base = mean if model.residual else torch.zeros_like(mean)
            condition = model.condition(given, predictor.statics)
            noise = predictor.noise([(hour, 0)])
            assert noise is not None
            drawn = base, condition, noise.to(predictor.device)
            made["member"] = predictor.physical(predictor.members(*drawn)[0])
            if "white noise" in self.kinds:
                made["white noise"] = predictor.physical(predictor.members(*drawn, scaled_noise=True)[0])
            if "reconstruction" in self.kinds:
                made["reconstruction"] = self._reconstruct(base, truth)
        return made

    def _reconstruct(self, base: Tensor, truth: Float32Array) -> Float32Array:
        """Put the truth through the autoencoder and back; cells without a reference are those of the mean."""
        predictor, targets = self.predictor, self.predictor.checkpoint.config.targets
        autoencoder = predictor.model.autoencoder
        assert autoencoder is not None
        if predictor.grid_rotation is not None and {"u10", "v10"} <= set(targets):
            u, v = (targets.index(name) for name in ("u10", "v10"))
            truth = truth.copy()
            truth[u], truth[v] = rotate_to_earth(truth[u], truth[v], -predictor.grid_rotation)
        normalized = predictor.checkpoint.normalization["target"].normalize(truth, targets)
        residual = torch.from_numpy(normalized).to(predictor.device)[None] - base
        latent = autoencoder.encode(residual.nan_to_num())
        return predictor.physical(base + autoencoder.decode(latent).float())
