from __future__ import annotations

import numpy as np
import pytest

from cryodrgn_ext.metadata import star_rows
from cryodrgn_ext.metadata.star_rows import RowText, index_rows


class FaultError(Exception):
    pass


def index(text: bytes, n_columns: int, begin: int = 0) -> RowText:
    return index_rows(text, begin, len(text), n_columns, lambda row, byte, why: FaultError(row, byte, why))


def values(rows: RowText) -> list[list[bytes]]:
    columns = [rows.column(column).tolist() for column in range(rows.token_start.shape[1])]
    return [list(row) for row in zip(*columns, strict=True)]


def test_values_between_any_blanks() -> None:
    rows = index(b"1  2\t3 \n  a b   c\n", 3)
    assert values(rows) == [[b"1", b"2", b"3"], [b"a", b"b", b"c"]]


def test_quoted_values_may_hold_blanks() -> None:
    text = b"\"a b\" 'c  d' e\n'it is' John's \"say 'x y'\"\n"
    assert values(index(text, 3)) == [[b"a b", b"c  d", b"e"], [b"it is", b"John's", b"say 'x y'"]]


def test_empty_quotes_are_an_empty_value() -> None:
    assert values(index(b"\"\" 'x' y\n", 3)) == [[b"", b"x", b"y"]]


def test_a_quote_inside_a_value_is_a_letter() -> None:
    assert values(index(b"O'Brien's x\"y\n", 2)) == [[b"O'Brien's", b'x"y']]


def test_comments_end_a_line_and_stand_alone() -> None:
    rows = index(b"1 2 # three four\n# nothing\n5 6#7\n", 2)
    assert values(rows) == [[b"1", b"2"], [b"5", b"6#7"]]


@pytest.mark.parametrize(
    ("text", "row", "line_start", "complaint"),
    [
        (b"1 2 3\n4\n", 1, 6, "has 1 value, but the table has 3 columns"),
        (b"1 2 3\n4 5 6 7\n", 1, 6, "has 4 values, but the table has 3 columns"),
        (b"1 2 3\n\n4 5 6\n", 1, 7, "comes after an empty line"),
        (b"1 2 3\n4 'x y 6 \n", 1, 6, "has 4 values"),
    ],
)
def test_bad_rows_are_named(text: bytes, row: int, line_start: int, complaint: str) -> None:
    with pytest.raises(FaultError) as caught:
        index(text, 3)
    assert caught.value.args[:2] == (row, line_start)
    assert complaint in caught.value.args[2]


def test_second_of_two_values_may_be_missing_as_in_job_options() -> None:
    assert values(index(b"fn_mtf \nfn_in x\n", 2)) == [[b"fn_mtf", b""], [b"fn_in", b"x"]]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rng = np.random.default_rng(3)
    table = [[b"x" * rng.integers(1, 30) for _ in range(4)] for _ in range(200)]
    text = b"head\n" + b"".join(b"  ".join(row) + b" \n" for row in table) + b" \n# end\n"
    monkeypatch.setattr(star_rows, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(star_rows, "_CHUNK_ROWS", chunk)
    rows = index(text, 4, begin=5)
    assert values(rows) == table
    assert b"".join(rows.written()) == text[5 : text.index(b" \n# end")]


@pytest.mark.parametrize("chunk", [7, 100_000])
def test_empty_line_is_noticed_across_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(star_rows, "_CHUNK_BYTES", chunk)
    with pytest.raises(FaultError) as caught:
        index(b"1 2\n3 4\n\n5 6\n", 2)
    assert caught.value.args[:2] == (2, 9)


def test_values_longer_than_65535_bytes() -> None:
    long = b"y" * 70_000
    assert values(index(b"a " + long + b" c\nd e f\n", 3)) == [[b"a", long, b"c"], [b"d", b"e", b"f"]]


def test_written_rows_keep_their_text() -> None:
    text = b"  1   one # note\n\t2\t'two three'\n 3  three \n"
    rows = index(text, 2)
    assert b"".join(rows.written(np.array([2, 0]))) == b" 3  three \n  1   one # note\n"


def test_written_rows_with_other_values() -> None:
    rows = index(b"  1   one # note\n 22  'a b' \n", 2)
    out = b"".join(rows.written(np.array([1, 0]), {0: [b"x", b"yy"]}, [[b"p", b"q"], [b"7", b"8"]]))
    assert out == b" x  'a b' p 7 \n  yy   one q 8 # note\n"
    both = b"".join(rows.written(None, {1: [b"B", b"D"], 0: [b"A", b"C"]}))
    assert both == b"  A   B # note\n C  D \n"


def test_no_rows() -> None:
    rows = index(b" \n# only a comment\n", 2)
    assert rows.n_rows == 0
    assert rows.column(1).tolist() == []
    assert b"".join(rows.written()) == b""
