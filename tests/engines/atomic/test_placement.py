"""Structures placed in maps that gemmi's electron scattering factors made; mirrored maps and other proteins told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.atomic.placement import place_structure
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.pose import map_alignment
from tests.engines.atomic.electron_maps import electron_map, folded_chain

BOX, PIXEL_A, RADIUS = 28, 2.5, 7


@pytest.fixture(autouse=True)
def _few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time: a chain of one domain is found among the best two rotations of the grid."""
    monkeypatch.setattr(map_alignment, "KEPT_COARSE", 2)


def test_a_structure_is_placed_where_it_was_rendered(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb")
    rotation, shift_A = Rotation.random(random_state=1).as_matrix(), np.array([4.0, -6.0, 3.0])
    truth = (structure.positions - structure.positions.mean(axis=0)) @ rotation.T + shift_A
    found = place_structure(structure, electron_map(structure, truth, BOX, PIXEL_A), PIXEL_A, RADIUS)
    assert np.sqrt(np.square(found.points(structure.positions) - truth).sum(axis=1).mean()) < 0.25
    assert found.correlation > 0.95 > found.other_hand


def test_the_other_hand_is_told_with_its_figure(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb")
    volume = electron_map(structure, structure.positions - structure.positions.mean(axis=0), BOX, PIXEL_A)
    with pytest.raises(InputError, match=r"other hand than the structure \(correlation 0\.\d+, mirrored [01]\."):
        place_structure(structure, volume[::-1].copy(), PIXEL_A, RADIUS)


def test_another_protein_is_refused_with_its_figure(tmp_path: Path) -> None:
    structure, other = folded_chain(tmp_path / "a.pdb"), folded_chain(tmp_path / "b.pdb", seed=5)
    volume = electron_map(other, other.positions - other.positions.mean(axis=0), BOX, PIXEL_A)
    with pytest.raises(InputError, match=r"does not fit the map \(correlation 0\."):
        place_structure(structure, volume, PIXEL_A, RADIUS)


def test_a_structure_larger_than_the_box_is_refused(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb")
    with pytest.raises(InputError, match="across and the box of the map only 16 Å"):
        place_structure(structure, np.zeros((8, 8, 8), np.float32), 2.0, 3)
