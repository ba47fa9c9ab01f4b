"""Score a checkpoint on days of the twin that it did not learn from, beside the ideal ensemble.

    python tests/benchmarks/twin_days.py CHECKPOINT ARCHIVE [EVERY MEMBERS SOURCE]

ARCHIVE is one that `ldmdown prepare` made of the twin, SOURCE its name where there are others. Of its test
period every EVERYth hour and the one after it are scored. Members of the ideal ensemble are other draws of the same
hour; where the coarse fields are means of the fine ones, they keep to the same box means as the checkpoint's. The
correlation of an hour with the next is of what is beside the mean of the ensemble; for the truth, of the ideal one.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from real_fields import BANDS, lag1

from ldmdown import metrics
from ldmdown.options import CheckpointOptions
from ldmdown.scoring.systems import IDEAL, LABELS, Systems

WAVELENGTHS = (64, 32, 16, 8, 5, 4)  # [km]
STRONG = (10, 15, 20)  # [m s-1]


def main(checkpoint: str, archive: Path, every: int, members: int, source: str | None) -> None:
    """Print the table."""
    systems = Systems([checkpoint], archive, CheckpointOptions(members=members, source=source))
    print(*systems.notes, sep="\n")
    held: dict[str, list[np.ndarray]] = defaultdict(list)
    first = [hour for hour in systems.hours if hour + 1 in systems.hours][::every]
    for hour in first:
        pair = [systems.read(one) for one in (hour, hour + 1)]
        held["truth"].append(np.stack([truth[None] for truth, _ in pair], axis=2))
        for name in (LABELS["member"], IDEAL):
            held[name].append(np.stack([fields[name] for _, fields in pair], axis=2))
        print(f"{np.datetime64(hour, 'h')}", file=sys.stderr)
    fields = {name: np.stack(parts).astype(np.float64) for name, parts in held.items()}  # (pair, member, T, 2, y, x)
    print(f"{len(first)} hours and those after them, {members} members; checkpoint, ideal, their ratio or the truth")
    for channel, name in enumerate(systems.names):
        report(name, {system: part[:, :, channel] for system, part in fields.items()})
    u, v = (systems.names.index(name) for name in ("u10", "v10"))
    speed = {system: np.hypot(part[:, :, u], part[:, :, v]) for system, part in fields.items()}
    for strong in STRONG:
        of = {system: float((part > strong).mean()) for system, part in speed.items()}
        print(f"above {strong} m/s: {of[LABELS['member']]:.2e} {of[IDEAL]:.2e} truth {of['truth']:.2e}")


def report(name: str, fields: dict[str, np.ndarray]) -> None:
    """Print the scores of a variable from (pair, member, hour, rows, cols)."""
    truth, both = fields["truth"][:, 0], [fields[LABELS["member"]], fields[IDEAL]]
    ensembles = [np.moveaxis(one, 1, 0) for one in both]
    crps = [metrics.crps(one, truth) for one in ensembles]
    errors = [
        np.sqrt(metrics.rmse(one.mean(axis=0), truth) ** 2 - one.var(axis=0, ddof=1).mean() / len(one))
        for one in ensembles
    ]
    spread = [metrics.spread_skill(one, truth) for one in ensembles]
    print(f"{name}\n  fair CRPS          {crps[0]:8.4f}{crps[1]:8.4f}  ratio {crps[0] / crps[1]:.3f}")
    print(f"  RMSE of the mean   {errors[0]:8.4f}{errors[1]:8.4f}  ratio {errors[0] / errors[1]:.3f}")
    print(f"  spread / skill     {spread[0]:8.3f}{spread[1]:8.3f}")
    spectra = [metrics.power_spectrum(one, (2.0, 2.0)) for one in (*both, truth)]
    for at in WAVELENGTHS:
        near = np.abs(np.log2(spectra[0][0] / at)) < 1 / 6
        ours, ideal, expected = (power[near].sum() for _, power in spectra)
        print(f"  power at {at:2} km [dB] {10 * np.log10(ours / expected):8.2f}{10 * np.log10(ideal / expected):8.2f}")
    for band in BANDS:
        beside = [one - one.mean(axis=1, keepdims=True) for one in both]
        found = [lag1(one, band) for one in (*beside, fields["truth"] - both[1].mean(axis=1, keepdims=True))]
        print(f"  lag 1, {'-'.join(map(str, band)):10} km{found[0]:8.2f}{found[1]:8.2f}  truth {found[2]:.2f}")


if __name__ == "__main__":
    arguments = [*sys.argv[1:], *["12", "8", None][len(sys.argv) - 3 :]]
    main(arguments[0], Path(arguments[1]), int(arguments[2]), int(arguments[3]), arguments[4])
