"""`ldmdown fetch`: the files that the paper's authors published on Zenodo, downloaded for `convert`.

In 2024 the authors' scripts took the weights and the data from one zip each, in two records. The packing is not relied
on: files are found by their names, as files of the records or as members of archives there (zip, tar), of which these
members alone are unpacked.
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch
import requests

from ldmdown.atomic import locked, replacing, writing
from ldmdown.console import progress_bar, say
from ldmdown.data.reading.published import STATISTICS
from ldmdown.errors import LdmdownError

SERVER = "https://zenodo.org"
RECORDS = {"12941117": "pretrained_models.zip", "12934521": "sample_data.zip"}  # and the archive to look into first
TARGETS = {"paper-t2m": "2mT", "paper-uv": "UV"}
STATICS = tuple(f"{kind}_2km_domain_trim_EPSG3035.tif" for kind in ("dtm", "land_cover_classes", "lat"))
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS = 20  # of an archive, in an error
TIMEOUT = 60  # of a server that says nothing [s]
MAX_FAILURES = 4  # one after the other without a byte between them
CHUNK = 2**16  # bytes that are written at once; of a cut one nothing is kept


@dataclass(frozen=True)
class RecordFile:
    """A file of a record, as the record's API describes it: size in bytes, checksum as `md5:...`."""

    name: str
    url: str
    size: int
    checksum: str

    def __str__(self) -> str:
        return f"{self.name} ({self.size / 1e9:.2g} GB)"


@dataclass(frozen=True)
class PublishedFiles:
    """What `convert` makes a checkpoint of."""

    weights: tuple[Path, ...]
    statistics: Path
    statics: Path  # the folder


@contextmanager
def published_files(name: str, downloads: Path) -> Iterator[PublishedFiles]:
    """Download what makes the checkpoint `paper-t2m` or `paper-uv`, and unpack it for as long as it is needed.

    Args:
        downloads: the folder that keeps the files of the records, for another time; a download that was cut is
            continued.

    Raises LdmdownError if a record cannot be reached, a file in none of them, damaged, or larger than the room on the
    disk.
    """
    weights = tuple(f"{kind}_{TARGETS[name]}.ckpt" for kind in ("UNET", "VAE_residual", "LDM_residual"))
    downloads.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".") as temporary:
        folder = Path(temporary)
        _collect({*weights, STATISTICS, *STATICS}, folder, downloads)
        yield PublishedFiles(tuple(folder / one for one in weights), folder / STATISTICS, folder)
    say(f"the downloads are kept in {downloads}: remove it when you have what you need")


def _collect(missing: set[str], folder: Path, downloads: Path) -> None:
    """Write files to a folder by their names.

    What held them in 2024 is looked into first, archives of which nothing is known last.
    """
    there: list[str] = []
    likely: list[RecordFile] = []
    others: list[RecordFile] = []
    for record, archive in RECORDS.items():
        files = _list_files(record)
        there.append(f"record {record} has {', '.join(map(str, files)) or 'no files'}")
        say(there[-1])
        likely += [file for file in files if file.name in {archive, *missing}]
        others += [file for file in files if file.name != archive and file.name.lower().endswith(ARCHIVES)]
    for file in [*likely, *others]:
        if not missing:
            return
        with _opened(_download(file, downloads)) as held:
            there.append(f"{file.name} holds {', '.join(list(held)[:MAX_MEMBERS])}")
            for label, write in held.items():
                if (name := PurePosixPath(label).name) in missing:
                    say(f"found {label} in {file.name}")
                    with replacing(folder / name) as beside:
                        write(beside)
                    missing.remove(name)
    if missing:
        raise LdmdownError(
            f"{SERVER}/records/{next(iter(RECORDS))}",
            "does not hold what was published",
            found="; ".join(there),
            expected=", ".join(sorted(missing)),
            fix="download what has another name now from its page, and give it to `ldmdown convert`",
        )


def _list_files(record: str) -> list[RecordFile]:
    address = f"{SERVER}/api/records/{record}"
    try:
        answer = requests.get(address, timeout=TIMEOUT)
        answer.raise_for_status()
        files = answer.json()["files"]
        return [
            RecordFile(PurePosixPath(one["key"]).name, one["links"]["self"], int(one["size"]), one["checksum"])
            for one in files
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LdmdownError(address, "is not the list of a record's files", found=repr(error)) from None
    except requests.RequestException as error:
        raise LdmdownError(address, "cannot be reached", found=str(error), fix="check the connection") from None


def _download(file: RecordFile, folder: Path) -> Path:
    """Give the complete file in a folder; one that is there already is only compared with its checksum."""
    path, part = folder / file.name, folder / f"{file.name}.part"
    left = file.size - sum(one.stat().st_size for one in (path, part) if one.exists())
    if left > (free := shutil.disk_usage(folder).free):
        found, expected = f"{free / 1e9:.3g} GB are free", f"{left / 1e9:.3g} GB"
        raise LdmdownError(path, "does not fit on the disk", found=found, expected=expected)
    pooch.get_logger().setLevel("WARNING")
    try:
        with locked(path), writing(path):
            pooch.retrieve(file.url, file.checksum, file.name, folder, downloader=partial(_continue, part, file.size))
    except requests.RequestException as error:
        fix = "run it again when the connection is better: it continues where it was cut"
        raise LdmdownError(file.url, "cannot be downloaded", found=str(error), fix=fix) from None
    except ValueError as error:
        fix = "run it again; if that does not help, the record holds a damaged file"
        raise LdmdownError(file.url, "has another checksum than its record says", found=str(error), fix=fix) from None
    return path


def _continue(part: Path, size: int, url: str, output: str, *_: Any) -> None:
    """Download for pooch what is missing of `size` bytes in `part`, however often it is cut, and rename it."""
    failures = 0
    with part.open("ab") as target, progress_bar("MB") as progress:
        task = progress.add_task(part.stem, total=size / 1e6)
        while (start := target.tell()) < size:
            try:
                headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
                with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                    answer.raise_for_status()
                    if answer.status_code != requests.codes.partial_content:  # the server gives all of it
                        target.seek(0)
                        target.truncate()
                    for chunk in answer.iter_content(CHUNK):
                        target.write(chunk)
                        progress.update(task, completed=target.tell() / 1e6)
            except requests.RequestException:
                failures = 0 if target.tell() > start else failures + 1
                if failures == MAX_FAILURES:
                    raise
                time.sleep(failures)
    part.replace(output)


@contextmanager
def _opened(path: Path) -> Iterator[dict[str, Callable[[Path], Any]]]:
    """What a file holds, by the name of the member (or of itself, if it is no archive): writes it to a path."""
    if not path.name.lower().endswith(ARCHIVES):
        yield {path.name: partial(shutil.copyfile, path)}
        return
    with ExitStack() as stack:
        held: dict[str, Callable[[], IO[bytes] | None]]
        try:
            if path.suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(path))
                held = {one: partial(archive.open, one) for one in archive.namelist() if not one.endswith("/")}
            else:
                tar = stack.enter_context(tarfile.open(path))
                held = {one.name: partial(tar.extractfile, one) for one in tar if one.isfile()}
        except (zipfile.BadZipFile, tarfile.TarError) as error:
            raise LdmdownError(path, "cannot be read as an archive", found=str(error)) from None
        yield {name: partial(_unpack, source) for name, source in held.items()}


def _unpack(source: Callable[[], IO[bytes] | None], path: Path) -> None:
    content = source()
    assert content is not None  # extractfile's answer for folders
    with content, path.open("wb") as target:
        shutil.copyfileobj(content, target, CHUNK)
