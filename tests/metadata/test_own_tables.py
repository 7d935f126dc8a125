"""STAR files of ours are read back by starfile, the same text for the same tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import starfile

from cryodrgn_ext.metadata.own_tables import own_star_text


def test_loops_and_pairs_come_back(tmp_path: Path) -> None:
    tables = {"job": {"rlnJobType": 99, "rlnJobTypeLabel": "relion.external"},
              "options": {"rlnName": ["one", "two words"], "rlnValue": [1, 0.25]}}  # fmt: skip
    text = own_star_text(tables, "50001")
    (tmp_path / "own.star").write_text(text)
    read = starfile.read(tmp_path / "own.star")
    assert read["job"] == tables["job"]
    assert {label: list(values) for label, values in read["options"].items()} == tables["options"]
    assert text.startswith("\n# version 50001\n\ndata_job\n")
    assert text.count("#") == 3, "the version and the numbers of two columns: no date, no time"
    assert own_star_text(tables, "50001") == text


def test_arrays_and_paths_with_blanks_come_back(tmp_path: Path) -> None:
    table = {"rlnIndex": np.arange(3), "rlnValue": np.array([0.1234567, 1e-9, np.nan]),
             "rlnImageName": np.array(["1@a b.mrcs", "2@x.mrcs", "3@ä.mrcs"])}  # fmt: skip
    (tmp_path / "own.star").write_text(own_star_text({"particles": table}))
    read = starfile.read(tmp_path / "own.star")
    assert read["rlnIndex"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(read["rlnValue"].to_numpy(float), table["rlnValue"], atol=1e-6)
    assert read["rlnImageName"].tolist() == table["rlnImageName"].tolist()


def test_a_table_without_rows_keeps_its_columns(tmp_path: Path) -> None:
    (tmp_path / "own.star").write_text(own_star_text({"output_nodes": {"rlnPipeLineNodeName": []}}))
    assert list(starfile.read(tmp_path / "own.star").columns) == ["rlnPipeLineNodeName"]
