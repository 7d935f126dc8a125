from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata import image_names, star_rows
from cryodrgn_ext.metadata.image_names import ImageReferences, image_hashes, mixed, parse_image_names, unique_ids
from cryodrgn_ext.metadata.star import parse_star


def parse(names: list[str]) -> ImageReferences:
    text = "data_\nloop_\n_rlnImageName\n_rlnX\n" + "".join(f"{name} 1\n" for name in names)
    return parse_image_names(parse_star(text.encode(), Path("x.star")).blocks[""])


def test_index_and_stack() -> None:
    names = ["000001@b.mrcs", "12@a/very/long/path/to/a@stack.mrcs", "3@/abs.mrcs", "000000100@b.mrcs", '"2@c d.mrcs"']
    found = parse(names)
    assert found.stack_names == ("b.mrcs", "a/very/long/path/to/a@stack.mrcs", "/abs.mrcs", "c d.mrcs")
    assert found.stack_id.tolist() == [0, 1, 2, 0, 3]
    assert found.stack_index.tolist() == [0, 11, 2, 99, 1]


@pytest.mark.parametrize("chunk", [1, 17, 100_000])
def test_many_stacks_against_plain_python(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rng = np.random.default_rng(0)
    stacks = [f"Extract/job{'x' * (i % 50)}/mic{i:04d}.mrcs" for i in range(60)]
    names = [f"{rng.integers(1, 10**6)}@{stacks[rng.integers(60)]}" for _ in range(500)]
    monkeypatch.setattr(star_rows, "_CHUNK_ROWS", chunk)
    found = parse(names)
    assert list(found.stack_names) == list(dict.fromkeys(name.split("@")[1] for name in names))
    again = [f"{i + 1}@{found.stack_names[s]}" for i, s in zip(found.stack_index, found.stack_id, strict=True)]
    assert again == names


def test_colliding_hashes_do_not_merge_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_names, "mixed", lambda numbers: np.zeros(len(numbers), np.uint64))
    assert parse(["1@a.mrcs", "1@b.mrcs", "2@a.mrcs"]).stack_id.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("stack.mrcs", "has no '@'"),
        ("@stack.mrcs", "no whole number"),
        ("x1@stack.mrcs", "no whole number"),
        ("-1@stack.mrcs", "no whole number"),
        ("1.5@stack.mrcs", "no whole number"),
        ("0@stack.mrcs", "index 0"),
        ("000000@stack.mrcs", "index 0"),
        ("7@", "names no stack"),
        ("1234567890123456@stack.mrcs", "no whole number"),
    ],
)
def test_bad_reference_is_named(name: str, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(["1@good.mrcs", name, "2@good.mrcs"])
    assert str(caught.value).startswith(f"x.star: row 2 of data_ (line 6): _rlnImageName '{name}' ")
    assert complaint in str(caught.value)


def test_identifiers_know_the_image_and_its_occurrence() -> None:
    names = ["1@a.mrcs", "2@a.mrcs", "1@b.mrcs", "000001@./a.mrcs", "1@a.mrcs"]
    image = image_hashes(parse(names))
    assert len({int(image[i]) for i in (0, 1, 2)}) == 3
    assert image[3] == image[0] == image[4]
    uid = unique_ids(image)
    assert len(set(uid.tolist())) == 5
    # In another file, in another order, the first occurrence has the same identifier.
    other = unique_ids(image_hashes(parse(["1@b.mrcs", "3@z.mrcs", "1@a.mrcs"])))
    assert other[2] == uid[0]
    assert other[0] == uid[2]


def test_hash_is_a_bijection_that_spreads() -> None:
    hashed = mixed(np.arange(200_000))
    assert len(np.unique(hashed)) == 200_000
    bits = np.unpackbits(hashed.view(np.uint8)).reshape(-1, 64).mean(axis=0)
    assert np.abs(bits - 0.5).max() < 0.01
