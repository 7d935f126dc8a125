"""AtomVAE: frames, rendering in real space, the summed likelihood, and a moving lobe learned with all atoms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.structure import residue_centres
from cryodrgn_ext.engines.atomic import atomvae_model
from cryodrgn_ext.engines.atomic.atomvae import AtomVaeLearner, AtomVaeTrainer, summed_likelihood
from cryodrgn_ext.engines.atomic.atomvae_model import AtomVaeModel, misfit
from cryodrgn_ext.engines.atomic.atomvae_settings import AtomVaeSettings
from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.atomic.image_learning import FoldSetting
from cryodrgn_ext.engines.atomic.motion import residue_evidence, rms
from cryodrgn_ext.engines.atomic.rigid_residues import IDENTITY, RigidResidues, gram_schmidt
from cryodrgn_ext.engines.atomic.training_passes import FoldData
from cryodrgn_ext.fourier.gaussians import gaussian_images, gaussian_sections
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.atomic.electron_maps import BOX, PIXEL_A, centred_chain, shown_images


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time: the published networks are for millions of images."""
    monkeypatch.setattr(atomvae_model, "ENCODER", (128, 64))
    monkeypatch.setattr(atomvae_model, "REPRESENTATION", 64)
    monkeypatch.setattr(atomvae_model, "DECODER", 32)
    monkeypatch.setattr(atomvae_model, "BLOCKS", 2)


def test_frames_are_rotations_and_leave_a_structure_as_it_is(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 50, 3, generator=generator)
    turn = gram_schmidt(first, second)
    torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(50))
    torch.testing.assert_close((turn[:, :, 0] * first).sum(1), first.norm(dim=1))
    structure = centred_chain(tmp_path / "chain.pdb")
    atoms = RigidResidues.of(structure)
    still = torch.tensor(IDENTITY).expand(60, 9)
    np.testing.assert_allclose(atoms.moved(still).numpy(), structure.positions, atol=1e-4)
    assert len(atoms.bonds) == 59
    assert float(atoms.continuity(atoms.moved(still))) < 1e-8
    assert float(atoms.off_centre(atoms.moved(still) + torch.tensor([3.0, 0, 4.0]))) == pytest.approx(25, rel=1e-4)


def test_a_frame_moves_its_residue_as_a_rigid_body_and_no_other(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    atoms = RigidResidues.of(structure)
    vector = torch.tensor(IDENTITY).repeat(60, 1)
    turn = torch.from_numpy(Rotation.random(random_state=3).as_matrix()).float()
    vector[7, 3:6], vector[7, 6:] = 2 * turn[:, 0], turn[:, 1] + 0.3 * turn[:, 0]
    vector[7, :3] = torch.tensor([1.0, -2.0, 0.5])
    moved = atoms.moved(vector).numpy()
    own = structure.residue == 7
    np.testing.assert_allclose(moved[~own], structure.positions[~own], atol=1e-4)
    before, after = structure.positions[own], moved[own]
    alpha = 1
    np.testing.assert_allclose(np.linalg.norm(after[alpha] - before[alpha]), math.sqrt(1 + 4 + 0.25), rtol=1e-4)
    _, left = Rotation.align_vectors(after - after[alpha], before - before[alpha])
    assert left < 1e-3


def test_images_in_real_space_are_direct_sums() -> None:
    """Every pixel by itself, in float64, and gradients by finite differences."""
    generator = torch.Generator().manual_seed(1)
    seen = 3 * torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    weight = 1 + torch.rand(5, generator=generator, dtype=torch.float64)
    width = torch.tensor(1.2, dtype=torch.float64)
    found = gaussian_images(seen, weight, width, 16)
    for image, points in zip(found.numpy(), seen.numpy(), strict=True):
        for y in range(16):
            for x in range(16):
                squared = (x - 8 - points[:, 0]) ** 2 + (y - 8 - points[:, 1]) ** 2
                expected = (weight.numpy() * np.exp(-squared / (2 * 1.2**2))).sum() / (2 * np.pi * 1.2**2)
                assert image[y, x] == pytest.approx(expected, rel=1e-9, abs=1e-12)
    small = seen[:1, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda one: gaussian_images(one, weight[:2], width, 8), (small,))


def test_expected_images_are_the_analytic_sections(tmp_path: Path) -> None:
    """Rendered in real space and sharpened, against sections of the same Gaussians in Fourier space; shifts too."""
    structure = centred_chain(tmp_path / "chain.pdb")
    images = shown_images(structure, [structure.positions], 3, 1.0)
    model = AtomVaeModel(RigidResidues.of(structure), images, 9, 2, 1.0, inferred=False)
    batch = FoldBatch.of(images, torch.arange(3), 9)
    positions = model.positions(torch.zeros(3, 2)).detach()
    shift_A = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])
    found = model.expected(positions, batch.planes, shift_A).detach()
    exact = gaussian_sections(
        model.kxy, batch.planes, positions / PIXEL_A, model.chain.electrons, torch.tensor(1.0 / PIXEL_A), BOX
    )
    exact = exact * torch.exp(-2j * math.pi / (BOX * PIXEL_A) * (shift_A @ model.kxy.float().T))
    assert float((found - exact).norm() / exact.norm()) < 5e-3
    torch.testing.assert_close(
        misfit(batch, found[:, None])[:, 0],
        2 * (batch.values - batch.ctf * found).abs().square().sum(1),
    )


def test_likelihoods_of_samples_are_summed() -> None:
    error = torch.tensor([[2.0, 4.0, 900.0]], dtype=torch.float64)
    expected = math.log((math.exp(-1) + math.exp(-2)) / 3)
    assert float(summed_likelihood(error)) == pytest.approx(expected, rel=1e-12)


def test_pose_latents_are_rotations_and_shifts_and_the_first_stage_learns_poses_only(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    images = shown_images(structure, [structure.positions], 20, 0.5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # weights, whatever ran in this process before
        model = AtomVaeModel(RigidResidues.of(structure), images, 5, 2, 1.0, inferred=True)
    latent = torch.tensor([[1.0, -0.5, 0, 1, 0, -1, 0, 0]])
    planes, shift_A = model.posed(latent)
    torch.testing.assert_close(planes, torch.tensor([[[0.0, 1, 0], [-1, 0, 0]]]))
    torch.testing.assert_close(shift_A, torch.tensor([[0.05, -0.025]]) * BOX * PIXEL_A)
    settings = AtomVaeSettings(vae_poses="inferred", vae_pose_epochs=20, vae_epochs=1, vae_batch=10, vae_pose_samples=1,
                               vae_learning_rate=3e-3)  # fmt: skip
    data = FoldData(images, torch.arange(20), 5)
    trainer = AtomVaeTrainer(model, data, settings, 0, CheckpointFile(None, "", ""), SilentMonitor())
    trainer._loss(torch.arange(10), 0, 0, warm=True).backward()
    assert model.frames.weight.grad is None
    assert model.pose[0].weight.grad is not None
    history = trainer.run()
    assert len(history) == 21
    assert history[19] < 0.95 * history[0]


@pytest.mark.slow
def test_a_moving_lobe_is_found_with_all_atoms_and_none_where_nothing_moves(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    moved = structure.positions.copy()
    moved[structure.residue >= 30] += [0.0, 10.0, 0.0]
    _, electrons, residue = residue_centres(structure)
    settings = AtomVaeSettings(vae_epochs=10, vae_zdim=1, vae_conformations=2, vae_learning_rate=5e-3, vae_batch=8)
    found = {}
    for name, shown in (("moving", [structure.positions, moved]), ("null", [structure.positions])):
        images = shown_images(structure, shown, 160, 0.7)
        place = FoldSetting(14.0, 4, 0, None, "key")
        found[name] = AtomVaeLearner(images, structure, settings, place, SilentMonitor()).run()
    evidence = {name: residue_evidence(one.motion, residue, electrons) for name, one in found.items()}
    assert "both half-sets show" in evidence["moving"].sentence(found["moving"].held_out)
    assert evidence["moving"].proven_A[35:].mean() > 3 * evidence["moving"].proven_A[:25].mean()
    assert evidence["null"].sentence(found["null"].held_out).startswith("No motion of the atoms is proven")
    assert rms(evidence["null"].proven_A) < 0.1 * rms(evidence["moving"].proven_A)
