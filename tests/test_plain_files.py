"""Files of our own come back as they were written; whatever is wrong with one is one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError, ResumeError
from cryodrgn_ext.plain_files import load_arrays, load_json, readable, write_arrays, write_json

ARRAYS = {"z": np.arange(6.0).reshape(3, 2), "name": np.array(["a", "µ"])}


@pytest.mark.parametrize("compress", [False, True])
def test_arrays_come_back(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS, compress=compress)
    for read in (load_arrays(path), load_arrays(path, "z", optional=("name", "absent"))):
        assert set(read) == {"z", "name"}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(read[name], array)
    assert set(load_arrays(path, "name")) == {"name"}


def test_plain_values_come_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None, "Å"], "b": {"c": 0.1}})
    assert load_json(tmp_path / "a.json") == {"a": [1, None, "Å"], "b": {"c": 0.1}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"does not exist: run it first\."),
        (b"", r"cannot be read \(.+\): delete it\."),
        (b"PK\x03\x04junk", r"cannot be read \(.+\): delete it\."),
        ("whole", r"of another kind \(it has no .*'other'.*\): delete it\."),
        ("npy", r"cannot be read \(it is no \.npz file\): delete it\."),
        ("object", r"cannot be read \(it holds no arrays of numbers, and Python objects are not read\): delete it\."),
        (b"no npz at all", r"cannot be read \(it holds no arrays of numbers, .+\): delete it\."),
    ],
)
def test_what_is_wrong_with_arrays_is_one_sentence(tmp_path: Path, content: bytes | str | None, complaint: str) -> None:
    path = tmp_path / "a.npz"
    if content == "whole":
        write_arrays(path, ARRAYS)
    elif content == "npy":
        with open(path, "wb") as handle:
            np.save(handle, np.zeros(3))
    elif content == "object":
        np.savez(path, other=np.array([None]))
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint) as caught, readable(path, "delete it", missing="run it first"):
        load_arrays(path, "other")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", "\ud800"])
def test_what_is_wrong_with_values_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ResumeError, match=r"a\.json cannot be read"), readable(path, "delete it", error=ResumeError):
        load_json(path)


def test_our_own_sentences_pass(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^z is too short$"), readable(tmp_path / "a.npz", "delete it"):
        raise InputError("z is too short")
