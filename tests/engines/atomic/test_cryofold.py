"""Cryofold: its chain, its sections against a rendered map, its loss, and fits from images of gemmi's densities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.atoms.backbone import Backbone
from cryodrgn_ext.atoms.structure import read_structure, residue_centres
from cryodrgn_ext.engines.atomic.coarse_chain import CoarseChain
from cryodrgn_ext.engines.atomic.cryofold import CryofoldTrainer
from cryodrgn_ext.engines.atomic.cryofold_model import CryofoldModel
from cryodrgn_ext.engines.atomic.cryofold_motion import CryofoldLearner
from cryodrgn_ext.engines.atomic.cryofold_settings import CryofoldSettings
from cryodrgn_ext.engines.atomic.fold_batch import FoldBatch
from cryodrgn_ext.engines.atomic.image_learning import CHECKPOINT, FoldSetting
from cryodrgn_ext.engines.atomic.motion import residue_evidence, rms
from cryodrgn_ext.engines.atomic.training_passes import FoldData
from cryodrgn_ext.errors import JobAborted
from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.progress import Monitor, SilentMonitor
from tests.engines.atomic.electron_maps import BOX, PIXEL_A, centred_chain, folded_chain, shown_images

T = TypeVar("T")
NUCLEOTIDE = """\
ATOM      1  O5'   G A   1       0.000   0.000   0.000  1.00 20.00           O
ATOM      2  C4'   G A   1       1.000   1.000   0.000  1.00 20.00           C
ATOM      3  N9    G A   1       3.000   1.000   0.000  1.00 20.00           N
ATOM      4  P     A A   2       5.000   1.000   0.000  1.00 20.00           P
ATOM      5  C4'   A A   2       6.000   2.000   0.000  1.00 20.00           C
ATOM      6  N9    A A   2       7.000   4.000   0.000  1.00 20.00           N
ATOM      7  P     C A   3      10.000   3.000   1.000  1.00 20.00           P
ATOM      8  C4'   C A   3      11.000   3.000   1.000  1.00 20.00           C
ATOM      9  N1    C A   3      12.000   5.000   1.000  1.00 20.00           N
ATOM     10  P    DT B   1      20.000   3.000   1.000  1.00 20.00           P
ATOM     11  N1   DT B   1      22.000   5.000   1.000  1.00 20.00           N
ATOM     12  P    DC B   2      26.000   3.000   1.000  1.00 20.00           P
ATOM     13  N1   DC B   2      28.000   5.000   1.000  1.00 20.00           N
ATOM     14  P    DC B   5      30.000   3.000   1.000  1.00 20.00           P
HETATM   15 MG    MG B   9      40.000   3.000   1.000  1.00 20.00          MG
END
"""


def test_a_protein_has_bonds_of_one_length_along_its_chain(tmp_path: Path) -> None:
    structure = folded_chain(tmp_path / "chain.pdb", residues=8)
    points = Backbone.of(structure)
    np.testing.assert_array_equal(points.atom, np.arange(8) * 5 + 1)
    np.testing.assert_array_equal(points.bonds, [(i, i + 1) for i in range(7)])
    np.testing.assert_array_equal(points.length_A, 3.8)
    chain = CoarseChain.of(structure)
    assert float(chain.energy(chain.base_A)) < 1e-4
    own = CoarseChain.of(structure, "centre")
    assert float(own.energy(own.base_A)) < 1e-4
    assert float(chain.electrons.sum()) == float(own.electrons.sum()) == structure.electrons.sum()


def test_nucleotides_are_bound_by_their_phosphates_and_nothing_across_gaps(tmp_path: Path) -> None:
    path = tmp_path / "rna.pdb"
    path.write_text(NUCLEOTIDE)
    points = Backbone.of(read_structure(path))
    np.testing.assert_array_equal(points.atom, [1, 3, 6, 9, 11, 13, -1])
    np.testing.assert_array_equal(points.bonds, [(0, 1), (1, 2), (3, 4)])
    np.testing.assert_allclose(points.length_A, [4.0, 5.9, 7.0])


def test_restraints_are_those_of_the_thesis(tmp_path: Path) -> None:
    """Eq. 7.3 by hand: a bond counts both ways, a side chain only beyond its reach."""
    chain = CoarseChain.of(folded_chain(tmp_path / "chain.pdb", residues=2))
    positions = torch.zeros(4, 3)
    positions[2, 0], positions[1, 1], positions[3, 0] = 5.0, chain.side_A + 2.0, 5.0
    assert float(chain.energy(positions)) == pytest.approx((5 - 3.8) ** 2 + 4, rel=1e-5)


def test_starts_are_those_of_the_thesis(tmp_path: Path) -> None:
    chain = CoarseChain.of(folded_chain(tmp_path / "chain.pdb"))
    main, side = chain.main.numpy(), chain.side.numpy()
    for start, extent in (("alpha", 0.0), ("noise", 6.0), ("random", 32.0)):
        begun = chain.begun(start, 6.0, 32.0, 0).base_A.numpy()
        np.testing.assert_array_equal(begun[side[:, 0]], begun[side[:, 1]])
        about = chain.base_A.numpy()[main] if start != "random" else chain.base_A.numpy()[main].mean(axis=0)
        moved = np.abs(begun[main] - about)
        assert moved.max() <= extent + 1e-4
        assert moved.mean() == pytest.approx(extent / 2, rel=0.2)


def test_expected_images_are_slices_of_the_rendered_gaussians(tmp_path: Path) -> None:
    """Sections with CTF against a map of the same Gaussians on a fine grid of voxels, sliced by brute force."""
    structure = centred_chain(tmp_path / "chain.pdb")
    chain = CoarseChain.of(structure)
    images = shown_images(structure, [structure.positions], 3, 1.0)
    model = CryofoldModel(chain, images, 9, 0, False, (1, 8))
    batch = FoldBatch.of(images, torch.arange(3), 9)
    axis = torch.arange(BOX, dtype=torch.float64) - BOX // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    voxels = torch.stack([x, y, z], -1).reshape(-1, 3) * PIXEL_A
    width = float(model.log_width_A.detach().exp())
    squared = torch.cdist(voxels, chain.base_A.double()).square()
    density = torch.exp(-squared / (2 * width**2)) @ chain.electrons.double() / (2 * np.pi * width**2) ** 1.5
    points = images.batch(torch.arange(3), images.plane.prefix(9)).points[:, 1:].double() / (BOX * PIXEL_A)
    phase = -2j * np.pi * (points.to(torch.complex128) @ voxels.T.to(torch.complex128))
    expected = (torch.exp(phase) @ (density * PIXEL_A**3).to(torch.complex128)) * batch.ctf
    found = model.sections(model.positions(), batch).detach()
    assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_gradients_of_the_loss_are_finite_differences(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    chain = CoarseChain.of(folded_chain(tmp_path / "short.pdb", residues=3))
    chain = replace(chain, base_A=chain.base_A.double(), electrons=chain.electrons.double())
    images = shown_images(structure, [structure.positions], 2, 1.0)
    model = CryofoldModel(chain, images, 3, 0, False, (1, 8)).double()
    one = FoldBatch.of(images, torch.arange(2), 3)
    batch = FoldBatch(one.values.to(torch.complex128) / 50, one.ctf.double() / 50, one.planes.double())

    def loss(centres: torch.Tensor) -> torch.Tensor:
        return model.misfit(centres[None], batch).sum() + chain.energy(1.3 * centres)

    assert torch.autograd.gradcheck(loss, (chain.base_A.clone().requires_grad_(),))


SETTINGS = CryofoldSettings(zdim=0, epochs=6, batch=10)


def test_one_structure_is_found_again_from_a_shifted_start_and_goes_on_after_an_abort(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    images = shown_images(structure, [structure.positions], 80, 1.5)
    chain = CoarseChain.of(structure, "centre")
    moved = replace(chain, base_A=chain.base_A + torch.tensor([2.0, -1.0, 1.5]))

    class Impatient(SilentMonitor):
        left = 20

        def poll(self) -> None:
            self.left -= 1
            if not self.left:
                raise JobAborted("enough")

        def track(self, items: Iterable[T], description: str, total: int, unit: int = 1) -> Iterator[T]:
            for item in items:
                self.poll()
                yield item

    def fit(folder: Path | None, monitor: Monitor) -> torch.Tensor:
        model = CryofoldModel(moved, images, 10, 0, False, (1, 8))
        data = FoldData(images, torch.arange(images.n), 10)
        CryofoldTrainer(model, data, SETTINGS, 0, CheckpointFile(folder, "a.safetensors", "k"), monitor).run()
        return model.centres.detach()

    found = fit(None, SilentMonitor())
    error = (found - chain.base_A).norm(dim=1)[chain.main]
    assert float(error.square().mean().sqrt()) < 0.4 * np.sqrt(2.0**2 + 1 + 1.5**2)
    with pytest.raises(JobAborted):
        fit(tmp_path, Impatient())
    torch.testing.assert_close(fit(tmp_path, SilentMonitor()), found)


def test_a_residue_without_side_chain_gaussians_carries_its_atoms(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    chain = CoarseChain.of(structure, side_chains=False)
    assert len(chain.base_A) == 60
    assert float(chain.electrons.sum()) == structure.electrons.sum()
    turn = Rotation.random(random_state=1).as_matrix()
    positions = chain.base_A.double().numpy() @ np.eye(3) + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(chain.centres(positions[None])[0], residue_centres(structure)[0] + [1, 2, 3], atol=1e-3)
    whole = CoarseChain.of(structure)
    turned = whole.centres((whole.base_A.double().numpy() @ turn.T)[None])[0]
    np.testing.assert_allclose(turned, residue_centres(structure)[0] @ turn.T, atol=1e-3)


@pytest.mark.slow
def test_a_moving_lobe_is_found_and_proven_and_none_where_nothing_moves(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    moved = structure.positions.copy()
    moved[structure.residue >= 30] += [0.0, 8.0, 0.0]
    _, electrons, residue = residue_centres(structure)
    settings = CryofoldSettings(epochs=12, backbone="centre", layers=1, dim=64, warmup_epochs=0, learning_rate=5e-3)
    found = {}
    for name, shown in (("moving", [structure.positions, moved]), ("null", [structure.positions])):
        images = shown_images(structure, shown, 320, 1.0)
        chain = CoarseChain.of(structure, "centre")
        place = FoldSetting(12.0, 4, 0, tmp_path / name, "key")
        found[name] = CryofoldLearner(images, chain, settings, place, SilentMonitor()).run()
        assert len(list((tmp_path / name).glob(CHECKPOINT.format("*")))) == 3
    evidence = {name: residue_evidence(one.motion, residue, electrons) for name, one in found.items()}
    assert "both half-sets show" in evidence["moving"].sentence(found["moving"].held_out)
    assert evidence["moving"].proven_A[35:].mean() > 3 * evidence["moving"].proven_A[:25].mean()
    assert evidence["null"].sentence(found["null"].held_out).startswith("No motion of the atoms is proven")
    assert rms(evidence["null"].proven_A) < 0.2 * rms(evidence["moving"].proven_A)
    state = np.arange(320) // 2 % 2
    assert abs(np.corrcoef(found["moving"].z[:, 0], state)[0, 1]) > 0.8
