"""Structures that move: frames, restraints, atoms carried along, and a hinge found from images of gemmi's densities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.structure import Structure, residue_centres
from cryodrgn_ext.engines.atomic import fit
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.engines.atomic.fit import AtomModel
from cryodrgn_ext.engines.atomic.frames import deformed, frame_levels, rotations
from cryodrgn_ext.engines.atomic.motion import MotionLearner, MotionSettings, ResidueEvidence, residue_evidence
from cryodrgn_ext.engines.atomic.restraints import Restraints
from cryodrgn_ext.engines.held_out import HeldOut
from cryodrgn_ext.fourier.half_plane import HalfPlane
from cryodrgn_ext.fourier.slices import FourierVolume, slice_points
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.atomic.electron_maps import electron_map, folded_chain

BOX, PIXEL_A, N = 28, 2.5, 180
STATES = 3


def test_rotations_are_scipys() -> None:
    vector = np.random.default_rng(0).normal(size=(5, 3))
    expected = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(rotations(torch.from_numpy(vector)).numpy(), expected, atol=1e-9)


def test_the_first_level_moves_a_structure_as_a_rigid_body(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb")
    centres, _, residue = residue_centres(structure)
    level = frame_levels(structure.chain, residue)[0]
    motion = torch.tensor([[[3.0, -2.0, 1.0, 5.0, 0.0, -4.0]]])
    base = torch.from_numpy(centres).float()
    moved = deformed(base, [level], [motion])[0].numpy()
    turn = Rotation.from_rotvec(motion[0, 0, :3].numpy() / level.reach_A).as_matrix()
    middle = centres.mean(axis=0)
    np.testing.assert_allclose(moved, (centres - middle) @ turn.T + middle + [5, 0, -4], atol=1e-4)


def test_restraints_hold_the_base_structure_and_nothing_else(tmp_path: Path) -> None:
    """No energy in any orientation of it; much for a broken bond, little for a broken contact, some for a clash."""
    structure = folded_chain(tmp_path / "chain.pdb")
    centres, _, residue = residue_centres(structure)
    restraints = Restraints.of(centres, residue, structure.chain)
    turned = torch.from_numpy(centres @ Rotation.random(random_state=0).as_matrix().T).float()[None]
    none = torch.empty(0, 2, dtype=torch.int64)
    assert float(restraints.energy(turned, none)) < 1e-3
    broken = turned.clone()
    broken[0, 40:] += 20.0
    assert float(restraints.energy(broken, none)) > 1000
    pair = torch.tensor([[0, 60]])
    apart = torch.zeros(1, 2 * len(centres), 3)
    apart[0, 60] = 1.0
    clash = Restraints(none, torch.empty(0), torch.empty(0), none, torch.empty(0))
    assert float(clash.energy(apart, pair)) > 10
    assert float(clash.energy(10 * apart, pair)) == 0


def test_atoms_are_carried_along_by_a_rigid_motion(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb")
    centres, _, _ = residue_centres(structure)
    turn, shift = Rotation.random(random_state=2).as_matrix(), np.array([1.0, 2.0, 3.0])
    found = carried_atoms(structure, (centres @ turn.T + shift)[None])[0]
    np.testing.assert_allclose(found, structure.positions @ turn.T + shift, atol=1e-3)


@dataclass(frozen=True)
class _Trained:
    """A result whose latents are the true angle, and whose volumes are the true ones."""

    z: NDArray[np.float32]
    maps: NDArray[np.float32]
    z_cov: None = None
    loss_history: dict[str, list[float]] = field(default_factory=dict)
    box_size: int = BOX
    pixel_size_A: float = PIXEL_A

    def volumes(self, z: NDArray[np.floating]) -> Iterator[NDArray[np.float32]]:
        for row in z:
            yield self.maps[int(np.clip(round(float(row[0])), 0, len(self.maps) - 1))]

    def save(self, directory: Path) -> None:
        raise NotImplementedError


def _hinged(structure: Structure, angle_deg: float) -> NDArray[np.float64]:
    """Atoms (A, 3) with the second half of the chain turned about the residue in the middle."""
    positions = structure.positions - structure.positions.mean(axis=0)
    arm = structure.residue >= 30
    hinge = positions[np.flatnonzero(arm)[0]]
    turn = Rotation.from_euler("y", angle_deg, degrees=True).as_matrix()
    positions[arm] = (positions[arm] - hinge) @ turn.T + hinge
    return positions


def _images(maps: NDArray[np.float32], state: NDArray[np.int64]) -> ParticleImages:
    rotation = torch.from_numpy(Rotation.random(N, random_state=4).as_matrix()).float()
    plane = HalfPlane(BOX, BOX // 2)
    points = slice_points(plane.kxy, rotation)
    values = torch.empty(points.shape[:2], dtype=torch.complex64)
    for number, volume in enumerate(maps):
        members = torch.from_numpy(state == number)
        values[members] = FourierVolume.from_map(torch.from_numpy(volume)).slice(points[members])
    clean = plane.to_images(values)
    sigma = float(clean.var().sqrt()) * 2.0
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return ParticleImages.from_tensors(noisy, rotation, torch.zeros(N, 2), PIXEL_A, pixel_noise_sd=sigma)


@pytest.mark.slow
def test_a_hinge_is_found_from_images_and_no_motion_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "ROUNDS", 1)  # time
    monkeypatch.setattr(fit, "STEPS", 8)
    structure = folded_chain(tmp_path / "chain.pdb")
    truth = np.stack([_hinged(structure, 40.0 * number / (STATES - 1)) for number in range(STATES)])
    maps = np.stack([electron_map(structure, one, BOX, PIXEL_A) for one in truth])
    placed = replace(structure, positions=truth[0])
    centres, electrons, residue = residue_centres(placed)
    atoms = AtomModel.of(placed, centres, PIXEL_A)
    settings = MotionSettings(nodes=STATES, features=3, resolution_A=10.0, rounds=0)
    state = np.arange(N) // 2 % STATES
    found = {}
    for name, shown in (("hinge", state), ("null", 0 * state)):
        model = _Trained(state[:, None].astype(np.float32), maps if name == "hinge" else np.stack([maps[0]] * STATES))
        found[name] = MotionLearner(_images(maps, shown), model, atoms, settings, SilentMonitor()).run()
    last = np.argmax(found["hinge"].nodes_z[:, 0])
    alpha = np.arange(60) * 5 + 1
    at = carried_atoms(placed, found["hinge"].positions[[last]])[0]
    before = np.sqrt(np.square(truth[0] - truth[-1])[alpha].sum(axis=1).mean())
    after = np.sqrt(np.square(at - truth[-1])[alpha].sum(axis=1).mean())
    assert after < 0.4 * before
    moved = residue_evidence(found["hinge"], residue, electrons)
    null = residue_evidence(found["null"], residue, electrons)
    assert moved.proven_A[35:].mean() > 1.5
    assert null.proven_A.mean() < 0.2 * moved.proven_A.mean()
    assert moved.determined.mean() > 0.9


def test_a_motion_is_claimed_only_where_halves_that_never_met_have_it() -> None:
    moving = ResidueEvidence(np.full(9, 3.0), np.full(9, 2.8), np.full(9, 0.2))
    assert moving.sentence(HeldOut(2.0, 0.1, 50.0)).startswith("The atoms move by 3.0 Å")
    for unproven in (None, HeldOut(0.1, 0.1, 50.0)):
        assert moving.sentence(unproven).startswith("No motion of the atoms is proven")
    apart = replace(moving, proven_A=np.full(9, 0.1))
    assert apart.sentence(HeldOut(2.0, 0.1, 50.0)).startswith("No motion of the atoms is proven")
