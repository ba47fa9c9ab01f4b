"""What the days of an archive come to: statistics over the training days, and where everything came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.config import Config
from ldmdown.data.archive.sources import describe, sha256
from ldmdown.data.archive.store import KINDS, within
from ldmdown.data.normalization import Moments, Normalization

Records = Sequence[Mapping[str, Any]]
"""What `write_day` noted of each day."""


def statistics(config: Config, records: Records) -> dict[str, Normalization]:
    """Over the training days, merged in their order whoever wrote them."""
    total = {kind: Moments() for kind in KINDS}
    for record in records:
        if within(np.array(record["hours"][:1], np.int64), config.data.split.train).any():
            for kind, seen in record["moments"].items():
                total[kind].merge(Moments(**seen))
    return {kind: seen.normalization() for kind, seen in total.items()}


def manifest(
    config: Config,
    root: Path,
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    records: Records,
    alone: Mapping[str, Iterable[int]],
    statics: Sequence[Path],
) -> dict[str, Any]:
    """Files with their hashes, hours of each use, the hours left out by reason, and days by what was decided of them.

    `files` are those of the days by kind, and `alone` the hours of days that only one source has, by reason.
    """
    hashes = {name: digest for record in records for name, digest in record["sha256"].items()}
    hours = np.array([hour for record in records for hour in record["hours"]], np.int64)
    split = config.data.split
    uses = {"train": split.train, "validation": split.validation, "test": split.test}
    return {
        "files": {
            **{kind: [{**file, "sha256": hashes[file["name"]]} for file in used] for kind, used in files.items()},
            "statics": [{**describe(str(file), root), "sha256": sha256(str(file))} for file in statics],
        },
        "hours": {use: int(within(hours, periods).sum()) for use, periods in uses.items()},
        "dropped": _dropped(records, alone),
        "notes": _notes(records),
    }


def _notes(records: Records) -> dict[str, list[str]]:
    days: dict[str, list[str]] = {}
    for record in (record for record in records if record["hours"]):
        for note in record["notes"]:
            days.setdefault(note, []).append(str(np.datetime64(record["hours"][0], "h"))[:10])
    return days


def _dropped(records: Records, alone: Mapping[str, Iterable[int]]) -> dict[str, list[str]]:
    reasons = {reason: list(hours) for reason, hours in alone.items()}
    for record in records:
        for reason, hours in record["dropped"].items():
            reasons.setdefault(reason, []).extend(hours)
    return {
        reason: np.sort(np.array(hours, np.int64)).astype("datetime64[h]").astype(str).tolist()
        for reason, hours in reasons.items()
        if hours
    }
