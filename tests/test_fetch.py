"""The published files, fetched from a server of this machine that plays the record."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from conftest import ldmdown

from ldmdown import checkpoint
from ldmdown.commands import fetch
from ldmdown.commands.fetch import published_files
from ldmdown.errors import LdmdownError

DATA = os.environ.get("LDMDOWN_TEST_DATA")
NAMES = ("UNET_UV.ckpt", "VAE_residual_UV.ckpt", "LDM_residual_UV.ckpt", "normalization_data.pkl", *fetch.STATICS)
CONTENT = {name: np.random.default_rng(at).bytes(300_000 + at) for at, name in enumerate(NAMES)}


class Record(ThreadingHTTPServer):
    """Records with files, and how the server treats them; `asked` are the files and the bytes they were asked from."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.records: dict[str, dict[str, bytes]] = {"12941117": {}, "12934521": {}}
        self.asked: list[tuple[str, str]] = []
        self.cuts = 0  # answers that stop half-way
        self.ranges = True
        self.away: str | None = None  # for addresses that hold this
        self.checksum: str | None = None  # a wrong one

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def listed(self, record: str) -> list[dict]:
        return [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{self.checksum or hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.address}/api/records/{record}/files/{name}/content"},
            }
            for name, content in self.records[record].items()
        ]


class Answer(BaseHTTPRequestHandler):
    server: Record

    def do_GET(self) -> None:
        _, _, _, record, *rest = self.path.split("/")
        if self.server.away and self.server.away in self.path:
            self.send_error(503)
        elif record not in self.server.records:
            self.send_error(404)
        elif not rest:
            self.answer(json.dumps({"files": self.server.listed(record)}).encode())
        else:
            self.file(record, rest[1])

    def file(self, record: str, name: str) -> None:
        content, asked = self.server.records[record][name], self.headers["Range"]
        self.server.asked.append((name, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if self.server.ranges else 0
        cut = self.server.cuts > 0
        self.server.cuts -= cut
        self.answer(content[start:], 206 if start else 200, (len(content) - start) // 2 if cut else None)

    def answer(self, content: bytes, status: int = 200, stop: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:stop])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    with Record() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(fetch, "SERVER", server.address)
        yield server
        server.shutdown()


def zipped(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, one in content.items():
            archive.writestr(name, one)
    return file.getvalue()


def tarred(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, one in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(one)
            archive.addfile(member, io.BytesIO(one))
    return file.getvalue()


def held(folder: Path, content: dict[str, bytes] = CONTENT) -> None:
    """Fetch the files of the wind's system and compare them."""
    with published_files("paper-uv", folder) as files:
        assert [path.name for path in files.weights] == list(NAMES[:3])
        for path in (*files.weights, files.statistics, *(files.statics / name for name in fetch.STATICS)):
            assert path.read_bytes() == content[path.name]


@pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set")
def test_a_published_system_in_one_command(record: Record, archive: Path, tmp_path: Path) -> None:
    """As the authors packed it; the second system needs no second download, and both are complete."""
    weights = {f"pretrained_models/{p.name}": p.read_bytes() for p in (Path(str(DATA)) / "parity").glob("*.ckpt")}
    data = {f"sample_data/static_var/{p.name}": p.read_bytes() for p in (archive / "static_var").iterdir()}
    data["sample_data/normalization_data.pkl"] = (archive / "normalization_data.pkl").read_bytes()
    record.records = {
        "12941117": {"outputs.zip": b"large", "pretrained_models.zip": zipped(weights)},
        "12934521": {"sample_data.zip": zipped(data)},
    }
    done = ldmdown("fetch", "paper-uv", "--wind", "earth", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "record 12941117 has outputs.zip (5e-09 GB), pretrained_models.zip (0.0" in done.stderr
    assert "found pretrained_models/UNET_UV.ckpt in pretrained_models.zip" in done.stderr
    loaded = checkpoint.load(tmp_path / "checkpoints/paper-uv.safetensors")
    assert loaded.stage == "ldm" and loaded.config.targets == ("u10", "v10") and loaded.header["wind"] == "earth"
    downloads = tmp_path / "checkpoints/downloads"
    with published_files("paper-t2m", downloads) as files:
        assert files.weights[0].read_bytes() == weights["pretrained_models/UNET_2mT.ckpt"]
    assert record.asked == [("pretrained_models.zip", "bytes=0-"), ("sample_data.zip", "bytes=0-")]
    assert sorted(path.name for path in downloads.iterdir()) == sorted(fetch.RECORDS.values())
    again = ldmdown("fetch", "paper-uv", folder=tmp_path)
    assert again.returncode == 1 and "paper-uv.safetensors: exists already" in again.stderr


def test_another_packing(record: Record, tmp_path: Path) -> None:
    """Some files lie in the record, the others in archives of other names; what is not needed stays there."""
    record.records["12941117"] = {
        "UNET_UV.ckpt": CONTENT["UNET_UV.ckpt"],
        "readme.txt": b"hello",
        "models.tar.gz": tarred({f"models/v1/{name}": CONTENT[name] for name in NAMES[1:3]} | {"../evil.ckpt": b"x"}),
        "rest.ZIP": zipped({name: CONTENT[name] for name in NAMES[3:]}),
        "outputs.zip": b"never asked for",
    }
    held(tmp_path / "downloads")
    assert [name for name, _ in record.asked] == ["UNET_UV.ckpt", "models.tar.gz", "rest.ZIP"]
    assert [path.name for path in tmp_path.rglob("evil*")] == []


@pytest.mark.parametrize("ranges", [True, False], ids=["continues", "begins again"])
def test_a_cut_connection(record: Record, tmp_path: Path, ranges: bool) -> None:
    record.records["12941117"] = {"pretrained_models.zip": (packed := zipped(CONTENT))}
    record.cuts, record.ranges = 2, ranges
    held(tmp_path)
    first = len(packed) // 2 // fetch.CHUNK * fetch.CHUNK  # a part of a chunk is lost
    second = first + (len(packed) - first) // 2 // fetch.CHUNK * fetch.CHUNK
    starts = [0, first, second if ranges else first]
    assert [asked for _, asked in record.asked] == [f"bytes={start}-" for start in starts]


def test_a_connection_that_stays_away_is_continued_another_time(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.records["12941117"] = {"pretrained_models.zip": (packed := zipped(CONTENT))}
    (tmp_path / "pretrained_models.zip.part").write_bytes(packed[:1000])
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    record.away = "content"
    with pytest.raises(LdmdownError, match="content: cannot be downloaded\n  found: 503"):
        held(tmp_path)
    record.away = "records"
    with pytest.raises(LdmdownError, match="api/records/12941117: cannot be reached\n  found: 503"):
        held(tmp_path)
    record.away = None
    held(tmp_path)
    assert record.asked == [("pretrained_models.zip", "bytes=1000-")]


def test_a_wrong_checksum(record: Record, tmp_path: Path) -> None:
    record.records["12941117"] = {"pretrained_models.zip": zipped(CONTENT)}
    record.checksum = "0" * 32
    with pytest.raises(LdmdownError, match="pretrained_models.zip/content: has another checksum than its record says"):
        held(tmp_path)
    assert not list(tmp_path.iterdir())
    record.checksum = None
    held(tmp_path)


def test_a_changed_list_of_files_is_answered_with_what_is_there(record: Record, tmp_path: Path) -> None:
    record.records["12941117"] = {
        "model.zip": zipped({f"new/{name}": CONTENT[name] for name in NAMES[2:]}),
        "a.pdf": b"",
    }
    with pytest.raises(LdmdownError) as caught:
        held(tmp_path)
    assert str(caught.value) == (
        f"{record.address}/records/12941117: does not hold what was published\n"
        "  found: record 12941117 has model.zip (0.0015 GB), a.pdf (0 GB); record 12934521 has no files; "
        "model.zip holds "
        + ", ".join(f"new/{name}" for name in NAMES[2:])
        + "\n  expected: UNET_UV.ckpt, VAE_residual_UV.ckpt\n"
        "  fix: download what has another name now from its page, and give it to `ldmdown convert`"
    )
    del record.records["12934521"]
    with pytest.raises(LdmdownError, match="api/records/12934521: cannot be reached\n  found: 404"):
        held(tmp_path)


def test_a_disk_that_fills_up_keeps_what_was_downloaded(record: Record, tmp_path: Path) -> None:
    record.records["12941117"] = {"pretrained_models.zip": zipped(CONTENT)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(LdmdownError, match="pretrained_models.zip: cannot be written\n.*too large"):
            held(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "pretrained_models.zip.part").stat().st_size == 2**20
    held(tmp_path)
    assert record.asked[-1] == ("pretrained_models.zip", f"bytes={2**20}-")


def test_what_does_not_fit_on_the_disk_is_not_begun(record: Record, tmp_path: Path) -> None:
    record.records["12941117"] = {"pretrained_models.zip": zipped(CONTENT)}
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(
            LdmdownError, match="does not fit on the disk\n  found: 0.00105 GB are free\n  expected: 0.0021 GB"
        ):
            held(tmp_path)
        assert not record.asked
    finally:
        subprocess.run(["umount", tmp_path], check=True)
