"""Both forms of .cs files: read, joined by uid, written; cryosparc-tools' own Dataset is the witness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cryosparc.dataset import CSDAT_FORMAT, Dataset

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.cs import CsTable, read_cs, write_cs
from cryodrgn_ext.metadata.particles import read_particles
from tests.metadata.cs_data import Record, only, particles_record, save


def same(table: CsTable, record: Record) -> None:
    assert record.dtype.names is not None
    assert tuple(table.columns) == record.dtype.names
    for name in record.dtype.names:
        assert np.array_equal(table.columns[name], record[name]), name
        assert table.columns[name].dtype == record.dtype[name].base, name


def test_numpy_form_keeps_fields_types_and_order(tmp_path: Path) -> None:
    record = particles_record(20_000)  # more rows than are read at a time
    same(read_cs(save(tmp_path / "a.cs", record)), record)


def test_stream_form_is_the_same_table(tmp_path: Path) -> None:
    record = particles_record()
    Dataset.load(save(tmp_path / "a.cs", record)).save(tmp_path / "b.cs", format=CSDAT_FORMAT)
    table = read_cs(tmp_path / "b.cs")
    for name, column in table.columns.items():
        assert np.array_equal(column, record[name])
        assert column.shape == record[name].shape
        assert column.dtype.kind == record[name].dtype.kind


def test_what_is_written_is_read_by_cryosparc_tools(tmp_path: Path) -> None:
    record = particles_record(17_000)
    rows = np.random.default_rng(0).permutation(17_000)[:16_500]
    write_cs(tmp_path / "b.cs", read_cs(save(tmp_path / "a.cs", record)), rows)
    expected = Dataset.load(tmp_path / "a.cs").take(rows)
    assert Dataset.load(tmp_path / "b.cs") == expected
    written = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert written.dtype == record.dtype
    assert np.array_equal(written, record[rows])


def test_new_values_keep_the_type_and_new_fields_come_last(tmp_path: Path) -> None:
    record = particles_record(5)
    table = read_cs(save(tmp_path / "a.cs", record))
    rows = np.array([4, 2])
    columns = {"alignments3D/shift": np.array([[1.5, 2.0], [3.0, 4.0]]), "cdx/name": np.array(["é", "bc"])}
    write_cs(tmp_path / "b.cs", table, rows, columns)
    written = np.load(tmp_path / "b.cs", allow_pickle=False)
    assert written.dtype["alignments3D/shift"] == record.dtype["alignments3D/shift"]
    assert written["alignments3D/shift"].tolist() == [[1.5, 2.0], [3.0, 4.0]]
    assert written.dtype.names[-1] == "cdx/name"
    assert written["cdx/name"].tolist() == ["é".encode(), b"bc"]
    assert written["uid"].tolist() == record["uid"][rows].tolist()
    with pytest.raises(InputError, match="has 2 values for 1 particles"):
        write_cs(tmp_path / "c.cs", table, rows[:1], columns)
    assert not (tmp_path / "c.cs").exists()


def test_passthrough_is_joined_by_uid(tmp_path: Path) -> None:
    record = particles_record()
    main = save(tmp_path / "a.cs", only(record, "alignments3D", "ctf"))
    order = np.random.default_rng(1).permutation(len(record))
    other = only(record, "blob", "location", "ctf")[order]
    other["ctf/df1_A"] = 0  # what the main file has is not taken from the passthrough
    table = read_cs(main, [save(tmp_path / "p.cs", np.concatenate([other, np.zeros(1, other.dtype)]))])
    for name in record.dtype.names or ():
        assert np.array_equal(table.columns[name], record[name]), name
    assert table.joined == (tmp_path / "p.cs",)


def test_passthrough_that_lacks_or_repeats_a_uid(tmp_path: Path) -> None:
    record = particles_record()
    main = save(tmp_path / "a.cs", only(record, "alignments3D"))
    blob = only(record, "blob")
    lacking = save(tmp_path / "p.cs", np.delete(blob, [7, 9]))
    with pytest.raises(InputError, match=rf"p.cs: lacks 2 of 40 .* uid {record['uid'][7]} \(row 8 of .*a.cs\); a pass"):
        read_cs(main, [lacking])
    repeated = save(tmp_path / "q.cs", np.concatenate([blob, blob[3:5]]))
    with pytest.raises(InputError, match=rf"q.cs: the uid {record['uid'][3]} is in row 4 and again in row 41 \(2"):
        read_cs(main, [repeated])


@pytest.mark.parametrize("form", ["lz4", "plain", "numpy"])
def test_file_with_any_byte_cut_or_changed_is_read_or_refused(form: str, tmp_path: Path) -> None:
    content = save(tmp_path / "a.cs", particles_record(12)).read_bytes()
    if form != "numpy":
        content = b"".join(Dataset(particles_record(12)).stream("lz4" if form == "lz4" else None))
    rng = np.random.default_rng(0)
    whole = dict.fromkeys(["read", "refused"], 0)
    for _ in range(400):
        damaged = bytearray(content)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.cs").write_bytes(damaged if rng.random() < 0.5 else content[: rng.integers(len(content))])
        try:
            assert read_cs(tmp_path / "a.cs").n_rows >= 0
            whole["read"] += 1
        except InputError:
            whole["refused"] += 1
    assert min(whole.values()) > 20  # a changed value may pass; nothing else happens than these two
    (tmp_path / "a.cs").write_bytes(content)
    assert read_cs(tmp_path / "a.cs").n_rows == 12


def test_empty_datasets(tmp_path: Path) -> None:
    empty = particles_record(12)[:0]
    Dataset(empty).save(tmp_path / "s.cs", format=CSDAT_FORMAT)
    for path in (save(tmp_path / "n.cs", empty), tmp_path / "s.cs"):
        table = read_cs(path)
        assert table.n_rows == 0
        assert set(table.columns) == set(empty.dtype.names or ())
        with pytest.raises(InputError, match="is empty"):
            read_particles(path)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    array = np.zeros(2, [("uid", "<u8"), ("blob/path", "O")])
    with open(tmp_path / "a.cs", "wb") as handle:
        np.save(handle, array, allow_pickle=True)
    with pytest.raises(InputError, match="pickled Python objects, which are never loaded"):
        read_cs(tmp_path / "a.cs")


def test_damaged_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.cs", particles_record()).read_bytes()
    Dataset.load(tmp_path / "a.cs").save(tmp_path / "s.cs", format=CSDAT_FORMAT)
    stream = (tmp_path / "s.cs").read_bytes()
    cases = {
        "is truncated: it ends before the last of its 40 rows": whole[:-1],
        "its header cannot be read": whole[:40],
        "is truncated: it ends within the field": stream[: len(stream) // 2],
        "ends within its header": stream[:60],
        "its text lies behind the end of the file": stream[:-3],
        "neither its numpy form nor its stream form": b"data_particles\n",
    }
    for complaint, content in cases.items():
        (tmp_path / "bad.cs").write_bytes(content)
        with pytest.raises(InputError, match=complaint):
            read_cs(tmp_path / "bad.cs")
    np.save(tmp_path / "plain.npy", np.zeros((3, 3)))
    with pytest.raises(InputError, match="plain numpy array"):
        read_cs(tmp_path / "plain.npy")
    with pytest.raises(InputError, match="does not exist"):
        read_cs(tmp_path / "none.cs")
    np.save(tmp_path / "nouid.npy", np.zeros(3, [("blob/idx", "<u4")]))
    with pytest.raises(InputError, match="has no field uid"):
        read_cs(tmp_path / "nouid.npy")
