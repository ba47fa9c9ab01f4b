"""What decides an archive, what its days come to, and where everything in it came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmdown.config import Config
from ldmdown.data.archive.sources import describe, digest
from ldmdown.data.archive.store import KINDS, within
from ldmdown.data.archive.writer import DayKey
from ldmdown.data.normalization import Moments, Normalization
from ldmdown.typing import IntArray

USES = ("train", "validation", "test")

Records = Mapping[DayKey, Mapping[str, Any]]
"""What `write_day` noted of each day, in their order."""


def fingerprint(config: Config) -> dict[str, Any]:
    """What decides an archive's content, apart from the files."""
    content = config.model_dump(mode="json")
    pairs = [pair.model_dump(mode="json", exclude={"weight"}) for pair in config.data.pairs]
    return {
        **{key: content[key] for key in ("grid", "predictors", "targets", "twin")},
        "split": {pair["name"]: pair.pop("split") for pair in pairs},
        "sources": pairs,
        "statics": content["statics"]["fields"],
        "static_files": content["data"]["statics"],
    }


def statistics(records: Records) -> dict[str, Normalization]:
    """Mean and std over the training hours of all sources, merged in the order of days whoever wrote them."""
    total = {kind: Moments() for kind in KINDS}
    for record in records.values():
        for kind, seen in record["moments"].items():
            total[kind].merge(Moments(**seen))
    return {kind: seen.normalization() for kind, seen in total.items()}


def manifest(
    config: Config,
    root: Path,
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    records: Records,
    unmatched: Mapping[str, Iterable[int]],
    statics: Sequence[Path],
) -> dict[str, Any]:
    """Files with their hashes, hours of each use, the hours left out by reason, and days by what was decided of them.

    `files` are those of the days by kind, and `unmatched` the hours of days that only one kind has, by reason.
    """
    hashes = {name: found for record in records.values() for name, found in record["sha256"].items()}
    by_source = {
        pair.name: {use: int(within(hours_of(records, index), getattr(pair.split, use)).sum()) for use in USES}
        for index, pair in enumerate(config.data.pairs)
    }
    return {
        "files": {
            **{kind: [{**file, "sha256": hashes[file["name"]]} for file in used] for kind, used in files.items()},
            "statics": [{**describe(str(file), root), "sha256": digest(str(file))} for file in statics],
        },
        "hours": {use: sum(counts[use] for counts in by_source.values()) for use in USES},
        "sources": by_source,
        "dropped": _dropped(records, unmatched),
        "notes": _notes(records),
    }


def hours_of(records: Records, source: int) -> IntArray:
    """The hours of a source that were written."""
    return np.array(
        [hour for key, record in records.items() if key.source == source for hour in record["hours"]], np.int64
    )


def _notes(records: Records) -> dict[str, list[str]]:
    days: dict[str, list[str]] = {}
    for record in (record for record in records.values() if record["hours"]):
        for note in record["notes"]:
            days.setdefault(note, []).append(str(np.datetime64(record["hours"][0], "h"))[:10])
    return days


def _dropped(records: Records, unmatched: Mapping[str, Iterable[int]]) -> dict[str, list[str]]:
    reasons = {reason: list(hours) for reason, hours in unmatched.items()}
    for record in records.values():
        for reason, hours in record["dropped"].items():
            reasons.setdefault(reason, []).extend(hours)
    return {
        reason: np.sort(np.array(hours, np.int64)).astype("datetime64[h]").astype(str).tolist()
        for reason, hours in reasons.items()
        if hours
    }
