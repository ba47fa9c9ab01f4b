"""What a run of training shows: a picture now and then, and one page with its curves, scores and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ldmdown.data.variables import variable
from ldmdown.drawing import html
from ldmdown.training.heldout import FINEST, FIX, MAX_LOSS
from ldmdown.training.run import State, read_losses
from ldmdown.typing import Float32Array

SYSTEMS = {  # as scores name them, in the order of the table
    "unet": "U-Net (mean)",
    "gan": "GAN",
    "member": "LDM, one member",
    "ldm": "LDM, mean of members; CRPS of all",
    "student": "the student, likewise",
    "scaled_noise": "scaled white noise, likewise",
}
SMOOTHED = 50  # points of a loss curve


def picture(path: Path, fields: Mapping[str, Float32Array], targets: Sequence[str], title: str) -> None:
    """Draw the first field of `heldout.generate_samples`: a row for each variable, a column for each member."""
    shown = {name: part for name, part in fields.items() if name != "scaled_noise"}
    names = [name for name, part in shown.items() for _ in part]
    panels = np.concatenate([part[:, 0] for part in shown.values()])  # (panel, T, rows, cols)
    panels = np.pad(panels, ((0, 0), (0, 0), (0, 0), (0, 2)), constant_values=np.nan)  # a gap between them
    width = panels.shape[-1]
    figure = Figure((2.4 * len(panels), 2.4 * len(targets)), layout="constrained")
    axes = figure.subplots(len(targets), squeeze=False)[:, 0]
    for row, (axis, target) in enumerate(zip(axes, targets, strict=True)):
        truth = fields["truth"][0, 0, row]
        scale = {"vmin": float(np.nanmin(truth)), "vmax": float(np.nanmax(truth))}
        image = axis.imshow(np.hstack(list(panels[:, row])), cmap="RdYlBu_r", **scale)
        axis.set(yticks=[], ylabel=target, xticks=np.arange(len(names)) * width + width / 2, xticklabels=names)
        figure.colorbar(image, ax=axis, label=f"less its mean [{variable(target).units}]")
    figure.suptitle(title)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=100)


def write(folder: Path, name: str, states: Mapping[str, State | None], measured: Mapping[str, Path]) -> None:
    """Write `report.html` of a run: its stages that have begun, and what was measured of those that are finished."""
    begun = {stage: state for stage, state in states.items() if state is not None}
    notes = {stage: json.loads(path.read_text()) for stage, path in measured.items() if path.exists()}
    lost = next((note["reconstruction"] for note in notes.values() if "reconstruction" in note), None)
    scored = {stage: note["scores"] for stage, note in notes.items() if "scores" in note}
    parts = {
        "Stages": [_stages(folder, begun), *_events(begun)],
        "Losses": [_curves(folder, stage, state) for stage, state in begun.items() if state.step],
        "Validation by noise": _noise_levels(folder),
        "Held-out scores": [_scores(scored)] if scored else [],
        "Reconstruction": _reconstruction(lost) if lost else [],
        "Samples": [_sample(folder, stage) for stage in begun if _pictures(folder, stage)],
        "Configuration": [html.preformatted((folder / "config.yaml").read_text())],
        "Environment": [html.preformatted((folder / "environment.json").read_text())],
    }
    html.write_page(folder / "report.html", f"Training of {name}", parts)


def _stages(folder: Path, states: Mapping[str, State]) -> Markup:
    rows: list[list[html.Cell | str | float]] = []
    for stage, state in states.items():
        path = folder / f"{stage}.csv"
        speeds = read_losses(path)["crops_per_second"] if path.exists() and state.step else np.array([np.nan])
        steps, best = (html.Cell(str(value), value) for value in (state.step, state.best_step))
        finished = "yes" if state.finished else "no"
        rows.append([stage, finished, steps, best, state.best_loss, float(np.median(speeds))])
    header = ["stage", "finished", "steps", "best after", "best validation loss", "crops a second"]
    return html.table("Stages of the run", header, rows)


def _events(states: Mapping[str, State]) -> list[Markup]:
    events = [f"{stage}: {event}" for stage, state in states.items() for event in state.events]
    return [html.bullets(events)] if events else []


def _curves(folder: Path, stage: str, state: State) -> Markup:
    losses = read_losses(folder / f"{stage}.csv")
    step, loss, validation = (losses[key] for key in ("step", "loss", "validation"))
    width = max(1, len(step) // SMOOTHED)
    whole = len(step) // width * width
    figure = Figure((7, 3), layout="constrained")
    axis = figure.subplots()
    smooth = [part[:whole].reshape(-1, width).mean(axis=1) for part in (step, loss)]
    axis.plot(*smooth, color="0.6", label="training")
    known = np.isfinite(validation)
    axis.plot(
        step[known], validation[known], "o-", color="tab:blue", markersize=3, label="validation, averaged weights"
    )
    axis.axvline(state.best_step, color="tab:blue", linestyle=":", linewidth=1)
    axis.set(xlabel="step", ylabel="loss", title=stage)
    axis.legend()
    caption = f"{stage}: loss in training (means of {width} steps) and of averaged weights in validation; dotted: kept."
    return html.figure(figure, caption, f"Line chart of the losses of the stage {stage} by step")


def _noise_levels(folder: Path) -> list[Markup]:
    path = folder / "ldm-noise.csv"
    if not path.exists():
        return []
    levels = read_losses(path)
    steps = levels.pop("step")
    if not len(steps):
        return []
    figure = Figure((7, 3), layout="constrained")
    axis = figure.subplots()
    for level, values in levels.items():
        axis.plot(steps, values, "o-", markersize=3, label=level)
    axis.set(xlabel="step", ylabel="loss of v")
    axis.legend(title="time of the diffusion")
    caption = "ldm: validation loss of v by the time of the diffusion, from little noise (0) to nothing but noise (1)."
    return [html.figure(figure, caption, "Line chart of the validation loss by step, a line a range of noise")]


def _scores(scored: Mapping[str, dict[str, Any]]) -> Markup:
    targets = [name for name in next(iter(scored.values())) if name != "on"]
    values = {target: {k: v for one in scored.values() for k, v in one[target].items()} for target in targets}
    known = [system for system in SYSTEMS if f"rmse_{system}" in values[targets[0]]]
    columns = [(score, target) for target in targets for score in ("rmse", "bias", "crps")]
    header = ["system", *(f"{target} {score.upper() if score != 'bias' else score}" for score, target in columns)]
    rows = [[SYSTEMS[system], *(values[target][f"{score}_{system}"] for score, target in columns)] for system in known]
    units = ", ".join(f"{target} [{variable(target).units}]" for target in targets)
    return html.table(f"On {list(scored.values())[-1]['on']}: {units}", header, rows)


def _reconstruction(lost: dict[str, dict[str, float]]) -> list[Markup]:
    bands = list(next(iter(lost.values())))
    rows: list[list[str | float]] = [[target, *(values[band] for band in bands)] for target, values in lost.items()]
    pieces = [
        html.table("Power lost in the latent space [dB], by half octaves", ["", *(f"from {b} km" for b in bands)], rows)
    ]
    if any(loss > MAX_LOSS for values in lost.values() for loss in values.values()):
        text = f"More than {MAX_LOSS} dB is lost at a scale above {FINEST:g} km; members will lack it. Fix: {FIX}."
        pieces.append(html.warning(text))
    return pieces


def _pictures(folder: Path, stage: str) -> list[Path]:
    return sorted((folder / "pictures").glob(f"{stage}-*.png"))


def _sample(folder: Path, stage: str) -> Markup:
    last = _pictures(folder, stage)[-1]
    pixels = matplotlib.image.imread(last)
    figure = Figure((pixels.shape[1] / 100, pixels.shape[0] / 100))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels)
    axis.set_axis_off()
    return html.figure(
        figure, f"A validation hour: {last.stem.replace('-0', ', step 0')}.", f"Maps of truth and {stage}"
    )
