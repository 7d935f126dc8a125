"""Residues against half-maps: those in their place agree, those that a fit holds in a wrong place are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryodrgn_ext.atoms.structure import residue_centres, residue_widths
from cryodrgn_ext.engines.atomic.agreement import Density, residue_agreement
from cryodrgn_ext.engines.atomic.node_sums import half_rows, sums_at_nodes
from cryodrgn_ext.progress import SilentMonitor
from tests.engines.atomic.electron_maps import PIXEL_A, centred_chain, shown_images


def test_a_lobe_in_a_wrong_place_does_not_agree(tmp_path: Path) -> None:
    structure = centred_chain(tmp_path / "chain.pdb")
    images = shown_images(structure, [structure.positions], 300, 2.0)
    rows, radius = torch.arange(images.n), 10
    sums = [sums_at_nodes(images, rows[half], torch.ones(int(half.sum()), 1), radius, SilentMonitor())
            for half in half_rows(images, rows)]  # fmt: skip
    centres, electrons, residue = residue_centres(structure)
    widths = torch.from_numpy(residue_widths(structure)).float()
    density = Density(torch.from_numpy(electrons).float(), widths, torch.ones(radius + 2), PIXEL_A)
    right = residue_agreement(np.stack([centres[None]] * 2), sums, density, residue, 7.0, 0)
    assert right.agrees.mean() > 0.9
    wrong = structure.positions.copy()
    wrong[structure.residue >= 40] += [0.0, 0.0, 15.0]
    moved, _, _ = residue_centres(replace(structure, positions=wrong))
    found = residue_agreement(np.stack([moved[None]] * 2), sums, density, residue, 7.0, 0)
    assert found.agrees[:35].mean() > 0.85
    assert found.agrees[43:].mean() < 0.35
    assert f"{int(found.agrees.sum())} of 60 residues agree" in found.sentence()
