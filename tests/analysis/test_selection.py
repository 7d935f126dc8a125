from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.analysis.selection import (
    check_indices,
    combine,
    complement,
    latent_columns,
    parse_range,
    read_index_file,
    select_labels,
    select_ranges,
)
from cryodrgn_ext.errors import InputError


def test_labels() -> None:
    label = np.array([2, 0, 1, 2, -1, 0])
    assert np.array_equal(select_labels(label, [2, 0]), [0, 1, 3, 5])
    with pytest.raises(InputError, match="no state 7; choose among 0, 1, 2"):
        select_labels(label, [7], "state")
    with pytest.raises(InputError, match="no cluster -1"):
        select_labels(label, [-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("z1:0.2:1.5", ("z1", 0.2, 1.5)),
        ("pc2:-1e-1:", ("pc2", -0.1, math.inf)),
        ("umap1::0", ("umap1", -math.inf, 0.0)),
    ],
)
def test_ranges_are_read(text: str, expected: tuple[str, float, float]) -> None:
    found = parse_range(text)
    assert (found.column, found.low, found.high) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("z1", "not of the form"),
        ("z1:2", "not of the form"),
        (":1:2", "not of the form"),
        ("z1:a:2", "must be numbers"),
        ("z1:3:2", "exceeds the upper bound"),
        ("z1:nan:2", "exceeds the upper bound"),
    ],
)
def test_malformed_ranges_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_range(text)


def test_ranges_select_their_intersection() -> None:
    z = np.random.default_rng(0).normal(size=(500, 3))
    columns = latent_columns(z, pc=z[:, ::-1])
    assert list(columns) == ["z1", "z2", "z3", "pc1", "pc2", "pc3"]
    got = select_ranges(columns, ["z1:0:", "pc1:-0.5:0.5"])
    assert np.array_equal(got, np.flatnonzero((z[:, 0] >= 0) & (np.abs(z[:, 2]) <= 0.5)))
    with pytest.raises(InputError, match="no latent column 'z9'; choose among z1, z2"):
        select_ranges(columns, ["z9:0:1"])
    with pytest.raises(InputError, match="no range given"):
        select_ranges(columns, [])


def test_index_files_of_all_kinds_agree(tmp_path: Path) -> None:
    wanted = np.array([9, 3, 3, 0])
    np.save(tmp_path / "a.npy", wanted)
    (tmp_path / "a.txt").write_text("9\n3\n3\n0\n")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(wanted))
    for name in ("a.npy", "a.txt", "a.pkl"):
        assert np.array_equal(read_index_file(tmp_path / name, 10), [0, 3, 9])
    np.save(tmp_path / "mask.npy", np.arange(10) % 5 == 0)
    assert np.array_equal(read_index_file(tmp_path / "mask.npy", 10), [0, 5])


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.txt", "1\n12\n", "entry 2 is 12, but indices of 10 particles are the integers 0 to 9"),
        ("a.txt", "-1", "entry 1 is -1,"),
        ("a.txt", "0.5", "entry 1 is 0.5"),
        ("a.txt", "nan", "entry 1 is nan"),
        ("a.txt", "one", "cannot be read .*a list of particle indices is expected"),
        ("a.csv", "1", "not in '.csv'"),
        ("a.npy", "not an array", "cannot be read .*a list of particle indices is expected"),
    ],
)
def test_bad_index_files_are_refused(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_index_file(tmp_path / name, 10)


def test_missing_and_hostile_index_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: a list of particle indices"):
        read_index_file(tmp_path / "none.npy", 10)
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path).encode() + b"/owned'\ntR.")
    with pytest.raises(InputError):
        read_index_file(tmp_path / "evil.pkl", 10)
    assert not (tmp_path / "owned").exists()
    np.save(tmp_path / "two.npy", np.zeros((2, 2), int))
    with pytest.raises(InputError, match="one-dimensional"):
        read_index_file(tmp_path / "two.npy", 10)
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read_index_file(tmp_path / "object.npy", 10)


def test_set_operations() -> None:
    a, b, c = np.array([1, 2, 3, 4]), np.array([3, 4, 5]), np.array([4])
    assert np.array_equal(combine([a, b, c], "union"), [1, 2, 3, 4, 5])
    assert np.array_equal(combine([a, b, c], "intersection"), [4])
    assert np.array_equal(combine([a, b, c], "difference"), [1, 2])
    assert np.array_equal(complement(a, 6), [0, 5])
    assert np.array_equal(np.sort(np.concatenate([a, complement(a, 6)])), np.arange(6))
    with pytest.raises(InputError, match="cannot be combined by 'xor'"):
        combine([a], "xor")
    with pytest.raises(InputError, match="nothing was selected"):
        combine([])


def test_check_indices_names_its_source() -> None:
    with pytest.raises(InputError, match="the list: entry 1 is 3"):
        check_indices(np.array([3]), 3, "the list")


def test_a_mask_of_numbers_is_no_list_of_rows(tmp_path: Path) -> None:
    mask = np.array([0, 1, 1, 0, 1, 1])
    np.save(tmp_path / "mask.npy", mask.astype(np.uint8))
    with pytest.raises(InputError, match=r"mask\.npy: has an entry, 0 or 1, for every one of 6 particles"):
        read_index_file(tmp_path / "mask.npy", 6)
    np.save(tmp_path / "mask.npy", mask.astype(bool))
    assert read_index_file(tmp_path / "mask.npy", 6).tolist() == [1, 2, 4, 5]
    np.save(tmp_path / "rows.npy", np.array([1, 0, 1]))  # rows of more particles
    assert read_index_file(tmp_path / "rows.npy", 6).tolist() == [0, 1]
