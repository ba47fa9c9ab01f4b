"""Pickles are read safely, as tensors and plain values; nothing in them is ever executed."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Attack
from numpy.testing import assert_array_equal

from ldmdown.data.reading import pickles
from ldmdown.errors import LdmdownError


def test_the_attack_of_these_tests_is_a_real_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Attack(tmp_path / "owned")))
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_a_command_is_refused_and_the_command_not_run(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "normalization_data.pkl"
    file.write_bytes(pickle.dumps({"ERA5": Attack(tmp_path / "owned")}, protocol=protocol))
    with pytest.raises(LdmdownError, match=r"asks for posix.system; refused, nothing was executed"):
        pickles.read_pickle(file)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_that_runs_a_command_is_refused_and_the_command_not_run(tmp_path: Path) -> None:
    file = tmp_path / "UNET_2mT.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": Attack(tmp_path / "owned")}, file)
    with pytest.raises(LdmdownError, match=r"UNET_2mT.ckpt: its pickle asks for posix.system"):
        pickles.read_torch(file)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__", "open"])
def test_builtins_that_do_things_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.pkl"
    file.write_bytes(f"cbuiltins\n{name}\n(V1+1\ntR.".encode())
    with pytest.raises(LdmdownError, match=f"builtins.{name}"):
        pickles.read_pickle(file)


def test_tensors_come_back_with_their_strides_types_and_sharing(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    saved = {
        "plain": base,
        "transposed": base.T,
        "cut": base[1:3, ::2],
        "parameter": torch.nn.Parameter(base),
        "half": base.half(),
        "long": base.long(),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "text": ["a", 1, None, {"b": 2.0}],
        "ordered": collections.OrderedDict(x=1),
    }
    torch.save(saved, tmp_path / "a.pt")
    read = pickles.read_torch(tmp_path / "a.pt")
    for name, value in saved.items():
        if isinstance(value, torch.Tensor):
            assert_array_equal(read[name].array(), value.detach().numpy(), err_msg=name)
        else:
            assert read[name] == value


def test_objects_of_missing_classes_are_inert(tmp_path: Path) -> None:
    torch.save({"net": torch.nn.Conv2d(1, 2, 3), "state_dict": {"w": torch.ones(1)}}, tmp_path / "a.pt")
    read = pickles.read_torch(tmp_path / "a.pt")
    assert isinstance(read["net"], pickles.Placeholder)
    assert_array_equal(read["state_dict"]["w"].array(), [1])


def test_a_tensor_beyond_its_storage_is_an_error() -> None:
    with pytest.raises(ValueError, match="reaches beyond its 4 values"):
        pickles.Tensor(lambda: np.zeros(4), 2, (3,), (1,)).array()


def test_numpy_numbers_and_arrays_in_a_pickle(tmp_path: Path) -> None:
    saved = {"mean": np.float64(1.5), "std": np.arange(3, dtype=">f4"), "name": ("a", [np.int32(4)])}
    for protocol in (2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(saved, protocol=protocol))
        read = pickles.read_pickle(tmp_path / "a.pkl")
        assert read["mean"] == 1.5 and read["name"] == ("a", [4])
        assert_array_equal(read["std"], saved["std"])


def test_pandas_is_refused_with_the_line_that_converts_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.Series({"t2m": 1.0}).to_pickle(tmp_path / "normalization_data.pkl")
    with pytest.raises(LdmdownError, match=r"asks for pandas.*\n.*\n  fix: where you trust the file"):
        pickles.read_pickle(tmp_path / "normalization_data.pkl")


def test_small_pickles_do_not_grow(tmp_path: Path) -> None:
    """Lists that hold the one below twice are 2^60 long when they are unfolded; a length makes gigabytes."""
    shared: list = []
    for _ in range(60):
        shared = [shared, shared]
    (tmp_path / "shared.pkl").write_bytes(pickle.dumps(shared))
    assert pickles.read_pickle(tmp_path / "shared.pkl")[0][1][0] is not None
    (tmp_path / "bytes.pkl").write_bytes(b"cbuiltins\nbytearray\n(L3000000000L\ntR.")
    with pytest.raises(LdmdownError, match="a bytearray of a length alone"):
        pickles.read_pickle(tmp_path / "bytes.pkl")


def test_not_a_torch_file(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"not a zip")
    with pytest.raises(LdmdownError, match="is not a file that torch.save wrote"):
        pickles.read_torch(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02garbage")
    with pytest.raises(LdmdownError, match="cannot be read safely"):
        pickles.read_torch(tmp_path / "b.ckpt")


@pytest.mark.parametrize("name", ["UNET_2mT", "GAN_2mT", "UNET_UV"])
def test_published_form_with_unknown_objects(name: str) -> None:
    data = os.environ.get("LDMDOWN_TEST_DATA")
    if not data:
        pytest.skip("LDMDOWN_TEST_DATA is not set")
    content = pickles.read_torch(Path(data) / "parity" / f"{name}.ckpt")
    outputs = 2 if name.endswith("UV") else 1
    assert content["state_dict"]["net.outputs.weight"].array().shape == (outputs, 8, 1, 1)


@pytest.mark.parametrize("held", [b"state_dict", b"\x00\x00\x80?" * 9], ids=["names", "values"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, held: bytes) -> None:
    file = tmp_path / "UNET_2mT.ckpt"
    torch.save({"state_dict": {"net.w": torch.ones(3, 3)}}, file)
    content = bytearray(file.read_bytes())
    content[content.index(held)] ^= 1
    file.write_bytes(content)
    with pytest.raises(LdmdownError, match=r"UNET_2mT.ckpt: cannot be read\n  found: Bad CRC-32"):
        pickles.read_torch(file)["state_dict"]["net.w"].array()
