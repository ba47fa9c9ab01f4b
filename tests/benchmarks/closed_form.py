"""What the mean of a run errs by on days that it did not learn from: those left out in turn, validation and test days.

    python tests/benchmarks/closed_form.py CONFIG [EVERY]

CONFIG is a configuration whose stage unet is trained. Of the training days each fifth is scored with the closed form
that was solved without it (training/closed_form.CrossFit). RMSE on every EVERYth hour of each source, beside
bilinear interpolation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ldmdown import runtime
from ldmdown.commands.train import Training
from ldmdown.config import load_config
from ldmdown.console import progress_bar
from ldmdown.training.batches import field_source
from ldmdown.training.hours import HourSet


@torch.no_grad()
def main(path: Path, every: int) -> None:
    """Print the table."""
    config, root = load_config(path)
    with runtime.processes() as processes, progress_bar("hours") as progress:
        training = Training(config, root, path, processes, progress)
    archive, model, stage = training.archive, training.model, training.stages[0]
    if not training.load_finished(stage):
        raise SystemExit(f"{path}: its stage unet is not trained")
    mask = archive.load_statics()[archive.statics.index("land_sea_mask")]
    ground = torch.from_numpy(mask > (mask.min() + mask.max()) / 2)
    std = torch.tensor([archive.normalization["target"].std[name] for name in archive.targets])[:, None, None]
    print("days, source, ground, hours; RMSE of bilinear interpolation and of the mean:", *archive.targets)
    for use in ("train", "validation", "test"):
        hours = HourSet(archive, use)
        source = field_source(hours, processes, hold=False)
        for places in hours.of_source:
            squares: dict[str, list[np.ndarray]] = {"land": [], "sea": [], "all": []}
            for place in places[::every].tolist():
                row, col, h, w = hours.window(place, model.size_multiple)
                batch = source.batch([source.crop(place, (row, col), (h, w), seed=0)]) | {"corners": [(row, col)]}
                if use == "train":
                    batch["folds"] = [hours.fold(place)]
                bilinear = model.interpolated_targets(model.interpolate(batch["predictors"]))
                errors = torch.stack([one - batch["target"] for one in (bilinear, stage.mean(batch))])[:, 0] * std
                land = ground[model.fine_window((row, col), h, w)]
                for name, cells in {"land": land, "sea": ~land, "all": land | ~land}.items():
                    squares[name].append(errors[..., cells].square().nanmean(dim=-1).numpy())
            name = archive.sources[archive.source[hours.indices[places[0]]]].name
            for kind, values in squares.items():
                rmse = np.sqrt(np.nanmean(values, axis=0)).round(3)
                print(f"{'left out' if use == 'train' else use:10} {name:8} {kind:4} {len(values):4}", *rmse)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 6)
