"""Tilt pairs are matched by names, or in order where micrographs and positions bear it out; never against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.particles import ParticleSet, read_particles
from cryodrgn_ext.metadata.tilt_pairs import pair_rows
from tests.metadata.conftest import StarBuilder

N, PER_MICROGRAPH = 24, 8


def pairs(
    folder: Path, order: np.ndarray, *, names: str = "", positions: bool = True, one_stack: bool = False
) -> tuple[ParticleSet, ParticleSet]:
    """Untilted particles, and the same after a tilt of 45 degrees about an oblique axis, in another order."""
    rng = np.random.default_rng(1)
    xy, height = rng.uniform(500, 3500, (N, 2)), rng.normal(0, 40, N)
    axis, tilt = np.radians(83.0), np.radians(45.0)
    along = np.array([np.cos(axis), np.sin(axis)])
    across = np.array([-along[1], along[0]])
    tilted = np.outer(xy @ along, along) + np.outer(xy @ across * np.cos(tilt) + height * np.sin(tilt), across)
    found = []
    for name, at, rows in (("untilted", xy, np.arange(N)), ("tilted", tilted + 40.0, order)):
        builder = StarBuilder(n=N)
        builder.columns["rlnOpticsGroup"] = ["1"] * N
        stack = "all" if one_stack else "mic{}"
        builder.columns |= {
            "rlnImageName": [
                f"{i + 1}@{name}/{stack.format(row // PER_MICROGRAPH)}.mrcs" for i, row in enumerate(rows)
            ],
            "rlnMicrographName": [f"{name}_{row // PER_MICROGRAPH}.mrc" for row in rows],
            "rlnCoordinateX": [f"{one:.1f}" for one in at[rows, 0]],
            "rlnCoordinateY": [f"{one:.1f}" for one in at[rows, 1]],
        }
        if not positions:
            del builder.columns["rlnCoordinateX"], builder.columns["rlnMicrographName"]
        if names:
            builder.columns[names] = [f"pair{row:03d}" for row in rows]
        found.append(read_particles(builder.write(folder / f"{name}.star")))
    return found[0], found[1]


SHUFFLED = np.random.default_rng(5).permutation(N)
WITHIN = np.concatenate([np.random.default_rng(i).permutation(PER_MICROGRAPH) + PER_MICROGRAPH * i for i in range(3)])


def test_order_is_borne_out_by_positions(tmp_path: Path) -> None:
    found = pair_rows(*pairs(tmp_path, np.arange(N)))
    assert found.rows.tolist() == list(range(N))
    assert "tilted images of each other to" in found.said


@pytest.mark.parametrize("names", ["rlnParticleName", "rlnGroupName"])
def test_names_go_before_order(names: str, tmp_path: Path) -> None:
    found = pair_rows(*pairs(tmp_path, SHUFFLED, names=names))
    assert SHUFFLED[found.rows].tolist() == list(range(N))
    assert found.said == f"Tilt pairs were matched by {names}."


@pytest.mark.parametrize(("order", "complaint"), [
    (SHUFFLED, r"rows \d+ and \d+ are of one micrograph in one file and of two in the other"),
    (WITHIN, "positions on the tilted micrographs are no tilted image of the others"),
])  # fmt: skip
def test_another_order_is_refused(order: np.ndarray, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        pair_rows(*pairs(tmp_path, order))


def test_order_alone_is_taken_and_said(tmp_path: Path) -> None:
    found = pair_rows(*pairs(tmp_path, WITHIN, positions=False, one_stack=True))
    assert "nothing in the files tells whether that is right" in found.said


def test_missing_names_and_numbers_are_refused(tmp_path: Path) -> None:
    first, second = pairs(tmp_path, np.arange(N), names="rlnParticleName")
    with pytest.raises(InputError, match="lacks the tilted images of 1 of 24 particles by rlnParticleName"):
        pair_rows(first, second.subset(np.arange(1, N)))
    assert pair_rows(first.subset(np.arange(1, N)), second).rows.tolist() == list(range(1, N))
    first, second = pairs(tmp_path, np.arange(N))
    with pytest.raises(InputError, match=r"has 23 particles and .* 24: give the second image of every particle"):
        pair_rows(first, second.subset(np.arange(1, N)))
