from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.star import TableEdit, new_star, new_table, parse_star, read_star, star_text, write_star
from tests.metadata.conftest import StarBuilder

STYLES = ["3.0", "3.1", "5.0"]


def parse(text: str) -> dict[str, dict[str, list[str]]]:
    star = parse_star(text.encode(), Path("x.star"))
    return {
        name: {column: table.text(column).tolist() for column in table.columns} for name, table in star.blocks.items()
    }


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("reverse", [False, True])
def test_file_comes_back_byte_for_byte(
    style: str, reverse: bool, star_builder: type[StarBuilder], tmp_path: Path
) -> None:
    builder = star_builder(style, reverse=reverse)
    path = builder.write(tmp_path / "in.star")
    star = read_star(path)
    write_star(tmp_path / "out.star", star)
    assert (tmp_path / "out.star").read_bytes() == path.read_bytes()
    assert star.version == style
    particles = star.blocks["" if style == "3.0" else "particles"]
    assert {column: particles.text(column).tolist() for column in particles.columns} == builder.columns
    if style != "3.0":
        assert list(star.blocks) == (["particles", "optics"] if reverse else ["optics", "particles"])
        optics = star.blocks["optics"]
        assert {column: optics.text(column).tolist() for column in optics.columns} == builder.optics


ODD = """# a comment in front

data_general
_rlnFinal   1.50  # a comment behind
_rlnEmpty
_rlnQuoted "two words"
_rlnPath  John's/a#b.star

# version 30001
data_

loop_
_rlnA
# between the labels
_rlnB #2

1.500 "a b"
-0 'c#d'

#end
data_model_class_1

loop_
_rlnC #1
5

data_nothing

"""


def test_odd_but_legal_text(tmp_path: Path) -> None:
    (tmp_path / "in.star").write_text(ODD)
    star = read_star(tmp_path / "in.star")
    write_star(tmp_path / "out.star", star)
    assert (tmp_path / "out.star").read_text() == ODD
    general = star.blocks["general"]
    assert {label: general.value(label) for label in general.columns} == {
        "rlnFinal": "1.50",
        "rlnEmpty": "",
        "rlnQuoted": "two words",
        "rlnPath": "John's/a#b.star",
    }
    assert not star.blocks["general"].is_loop
    assert star.blocks[""].text("rlnA").tolist() == ["1.500", "-0"]
    assert star.blocks[""].text("rlnB").tolist() == ["a b", "c#d"]
    assert star.blocks["nothing"].columns == ()


def test_row_that_starts_like_a_block_is_a_row() -> None:
    text = "data_particles\n\nloop_\n_rlnImageName #1\n_rlnX #2\ndata_1/a.mrcs 1\ndata_2/a.mrcs 2\n"
    assert parse(text)["particles"]["rlnImageName"] == ["data_1/a.mrcs", "data_2/a.mrcs"]


def test_last_line_without_newline() -> None:
    assert parse("data_\nloop_\n_rlnX\n1\n2") == {"": {"rlnX": ["1", "2"]}}


def test_text_beyond_ascii(tmp_path: Path) -> None:
    text = "data_\n\nloop_\n_rlnMicrographName\n_rlnX\nMüller/été.mrc 1\n東京/a.mrc 2\n"
    (tmp_path / "in.star").write_text(text, encoding="utf-8")
    table = read_star(tmp_path / "in.star").blocks[""]
    assert table.text("rlnMicrographName").tolist() == ["Müller/été.mrc", "東京/a.mrc"]


def test_digits_are_not_touched_by_a_subset(tmp_path: Path) -> None:
    numbers = ["1.10", "1.1", "+1.1", "1.100000000000000088817841970012523", "11e-1", "1.1E0", "-0.0", "nan", "007"]
    text = "data_\nloop_\n_rlnX #1\n_rlnY #2\n" + "".join(f"{x:>40} {x}\n" for x in numbers)
    star = parse_star(text.encode(), Path("x.star"))
    out = b"".join(star_text(star, {"": TableEdit(np.arange(9)[::-1])})).decode()
    assert parse(out)[""]["rlnX"] == numbers[::-1]
    assert out.splitlines()[4:] == text.splitlines()[4:][::-1]


def test_appended_columns_follow_the_style_of_the_labels(star_builder: type[StarBuilder]) -> None:
    for style, end in (("3.1", " \n"), ("5.0", "\n")):
        builder = star_builder(style, n=3)
        star = parse_star(builder.text().encode(), Path("x.star"))
        values = [b"1", b"2", b"3"]
        out = b"".join(star_text(star, {"particles": TableEdit(None, {"cdxState": values})})).decode()
        assert f"\n_cdxState #{len(builder.columns) + 1}{end}" in out
        assert parse(out)["particles"] == builder.columns | {"cdxState": ["1", "2", "3"]}
        assert parse(out)["optics"] == builder.optics
        assert (
            out.replace(f"_cdxState #{len(builder.columns) + 1}{end}", "").split("loop_")[1]
            == builder.text().split("loop_")[1]
        )
    bare = parse_star(b"data_\nloop_\n_rlnX\n5\n", Path("x.star"))
    assert b"".join(star_text(bare, {"": TableEdit(None, {"a": [b"7"]})})) == b"data_\nloop_\n_rlnX\n_a\n5 7\n"


@pytest.mark.parametrize("style", STYLES)
def test_starfile_reads_the_same_values(style: str, star_builder: type[StarBuilder], tmp_path: Path) -> None:
    path = star_builder(style).write(tmp_path / "in.star")
    star = read_star(path)
    edit = TableEdit(np.array([5, 0, 2]), {"cdxLatent1": [b"0.5", b"-1", b"2e-05"]})
    block = "" if style == "3.0" else "particles"
    write_star(tmp_path / "out.star", star, {block: edit})
    before = starfile.read(path, always_dict=True)
    after = starfile.read(tmp_path / "out.star", always_dict=True)
    assert list(before) == list(after)
    expected = before[block].iloc[[5, 0, 2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(after[block].drop(columns="cdxLatent1"), expected, check_dtype=False)
    assert after[block]["cdxLatent1"].tolist() == [0.5, -1.0, 2e-5]
    if style != "3.0":
        pd.testing.assert_frame_equal(after["optics"], before["optics"])


def test_new_tables_are_read_back_by_starfile(tmp_path: Path) -> None:
    loop = new_table("particles", {"rlnX": [1.5, -2.0], "rlnName": ["a b", "c"], "rlnK": [1, 2], "rlnB": [True, False]})
    single = new_table("general", {"rlnFinal": [3.25], "rlnLabel": ["x"]}, is_loop=False)
    write_star(tmp_path / "new.star", new_star([single, loop]))
    found = starfile.read(tmp_path / "new.star")
    assert found["general"] == {"rlnFinal": 3.25, "rlnLabel": "x"}
    assert found["particles"].to_dict("list") == {
        "rlnX": [1.5, -2.0],
        "rlnName": ["a b", "c"],
        "rlnK": [1, 2],
        "rlnB": [1, 0],
    }
    assert (tmp_path / "new.star").read_text().count("# version 30001") == 2
    assert read_star(tmp_path / "new.star").blocks["particles"].text("rlnX").tolist() == ["1.500000", "-2.000000"]


GOOD = "data_\n\nloop_\n_rlnX #1\n_rlnY #2\n_rlnZ\n1 2 0\n3 4 0\n"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no line starts with data_"),
        (b"hello\nworld\n", "no line starts with data_"),
        (b"\x1f\x8b\x08\0rest", "is compressed (gzip)"),
        (GOOD.encode() + b"5 6 \0\n", "binary file"),
        (GOOD.encode() + b" " * 5000 + b"\0", "binary file"),
        (GOOD.encode("utf-16"), "binary file"),
        (GOOD.encode() + "é 6 7\n".encode("latin1"), "line 9 is not UTF-8"),
        (GOOD.encode() + "é".encode()[:1], "line 9 is not UTF-8"),
        (GOOD.replace("\n", "\r\n").encode(), "CR LF"),
        (GOOD.encode() + b"5\n", "row 3 of data_ (line 9) has 1 value, but the table has 3 columns"),
        (GOOD.encode() + b"5 6 7 8\n", "row 3 of data_ (line 9) has 4 values"),
        (GOOD.encode() + b"\n5 6 7\n", "row 3 of data_ (line 10) comes after an empty line"),
        (GOOD.encode() + GOOD.encode(), "two blocks named data_"),
        (GOOD.replace("_rlnY", "_rlnX").encode(), "the column _rlnX twice"),
        (b"data_p\n\nloop_\n1 2\n", "loop_ is not followed by column names"),
        (b"data_p\n_rlnX 1\n1 2\n", "line 3 in data_p is neither a label nor"),
        (b"data_p\n_rlnX 1\nloop_\n_rlnY\n1\n", "mixes a list and a loop_"),
    ],
)
def test_malformed_text_is_refused_in_one_sentence(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.star"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_star(path)
    message = str(caught.value)
    assert complaint in message
    assert message.startswith(str(path))
    assert "\n" not in message


def test_wrong_kinds_of_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.star: this STAR file does not exist"):
        read_star(tmp_path / "nothing.star")
    with pytest.raises(InputError, match="is a directory"):
        read_star(tmp_path)
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        read_star(tmp_path / "a" / "b.star")


def test_names_the_row_of_a_value_that_is_no_number() -> None:
    table = parse_star(b"data_\nloop_\n_rlnX\n_rlnY\n1 a\n2.5 b\n1_0 c\n", Path("x.star")).blocks[""]
    with pytest.raises(InputError, match=r"x.star: row 1 of data_ \(line 5\): _rlnY is 'a', but a number"):
        table.floats("rlnY")
    with pytest.raises(InputError, match=r"row 3 of data_ \(line 7\): _rlnX is '1_0'"):
        table.floats("rlnX")
    whole = parse_star(b"data_\nloop_\n_rlnX\n1\n2.5\n", Path("x.star")).blocks[""]
    with pytest.raises(InputError, match=r"row 2 .*_rlnX is 2.5, but a whole number"):
        whole.integers("rlnX")
    with pytest.raises(InputError, match="has no column _rlnZ"):
        table.text("rlnZ")


def test_output_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    star = parse_star(GOOD.encode(), Path("x.star"))
    with pytest.raises(InputError, match=r"out\.star: cannot be written: No such file"):
        write_star(tmp_path / "missing" / "out.star", star)

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out.star").write_text("old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"out\.star: cannot be written: No space left on device"):
        write_star(tmp_path / "out.star", star)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.star"]
    assert (tmp_path / "out.star").read_text() == "old"


def test_written_file_has_ordinary_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    umask = os.umask(0o022)
    try:
        write_star(tmp_path / "out.star", parse_star(GOOD.encode(), Path("x.star")))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "out.star").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: new_table("a", {"rlnX": [1.0, float("nan")]}), "_rlnX: value 2 is nan"),
        (lambda: new_table("a", {"rlnX": [float("inf")]}), "value 1 is inf"),
        (lambda: new_table("a", {"rlnX": [1], "rlnY": [1, 2]}), "equal lengths"),
        (lambda: new_table("a", {}), "equal lengths"),
        (lambda: new_table("a", {"rlnX": [1, 2]}, is_loop=False), "1 for a list"),
        (lambda: new_table("a", {"_rlnX": [1]}), "'_rlnX' cannot be a column name"),
        (lambda: new_table("a", {"rln X": [1]}), "'rln X' cannot be a column name"),
        (lambda: new_table("a", {"rlnX": ["line\nbreak"]}), "cannot be written to a STAR file"),
        (lambda: new_table("a", {"rlnX": [[1]]}), "one-dimensional"),
        (lambda: new_star([new_table("a", {"b": [1]}), new_table("a", {"c": [1]})]), "two blocks of one name"),
    ],
)
def test_values_that_a_file_cannot_hold(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()


def test_strings_are_quoted_where_they_must_be() -> None:
    texts = ["plain", "two words", "", 'say "x y"', "#7", "'open", "O'Brien"]
    table = new_table("a", {"rlnX": texts, "rlnY": range(7)})
    again = parse_star(b"".join(star_text(new_star([table]))), Path("x.star")).blocks["a"]
    assert again.text("rlnX").tolist() == texts


def test_a_comment_behind_loop_is_a_comment(tmp_path: Path) -> None:
    text = "data_particles # mine\n\nloop_ # of two\n_rlnImageName #1\n_rlnVoltage #2\n1@a.mrcs 300\n2@a.mrcs 200\n"
    (tmp_path / "a.star").write_text(text)
    table = read_star(tmp_path / "a.star").blocks["particles"]
    assert table.floats("rlnVoltage").tolist() == starfile.read(tmp_path / "a.star")["rlnVoltage"].tolist()
