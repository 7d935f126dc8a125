"""Copies of particles in both half-sets: left out of the comparison, and named where a state is nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch

from cryodrgn_ext.fourier.slices import FourierVolume
from cryodrgn_ext.images.dataset import PreprocessSettings, open_images
from cryodrgn_ext.metadata.particles import read_particles
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate import simulate_particles, write_relion_project
from cryodrgn_ext.validation import states
from cryodrgn_ext.validation.shared_images import independent_rows, one_half_of_each
from cryodrgn_ext.validation.states import iterate_states
from cryodrgn_ext.validation.verdict import conclude, overall

from .conftest import Case, N

COPY = np.tile(np.arange(N // 2), 2)
HALF = np.repeat([1, 2], N // 2)


def test_of_each_group_in_both_half_sets_one_half_is_taken_by_turns() -> None:
    groups, half = np.array([0, 0, 1, 1, 2, 2, 3, 4]), np.array([1, 2, 1, 2, 2, 2, 1, 2])
    assert one_half_of_each(groups, half).tolist() == [True, False, False, True, True, True, True, True]
    assert one_half_of_each(np.arange(5), np.array([1, 2, 1, 2, 1])).all()


def doubled(case: Case) -> tuple[Case, np.ndarray]:
    """Half of the images twice, in both half-sets; states by how their noise goes with a structure from nowhere."""
    images = replace(case.images.subset(torch.from_numpy(COPY)), half_set=torch.from_numpy(HALF).to(torch.int8))
    consensus = reconstruct_half_maps(images)
    batch = images.batch(torch.arange(N))
    residual = batch.coefficients - batch.ctf * FourierVolume.from_map(torch.from_numpy(consensus.map)).slice(
        batch.points
    )
    nowhere = torch.from_numpy(np.random.default_rng(4).normal(size=consensus.map.shape)).float()
    expected = batch.ctf * FourierVolume.from_map(nowhere).slice(batch.points)
    label = ((expected.conj() * residual).real.sum(1) > 0).long().numpy()
    return Case(case.particles, images, consensus), label


def test_what_copies_alone_make_is_an_artefact_of_duplicates(rigid: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case, label = doubled(rigid)
    fooled = [conclude(state.evidence).words for state in iterate_states(case.images, label, case.consensus)]
    assert fooled == ["proven", "proven"], "tensors have no names by which copies are known"
    monkeypatch.setattr(states, "independent_rows", lambda images: one_half_of_each(COPY, HALF))
    found = list(iterate_states(case.images, label, case.consensus))
    conclusions = [conclude(state.evidence) for state in found]
    assert [one.words for one in conclusions] == ["an artefact of duplicates"] * 2
    assert "Remove duplicates" in overall(conclusions)
    maps = reconstruct_half_maps(case.images, torch.from_numpy(np.flatnonzero(label == 0)))
    np.testing.assert_allclose(found[0].half1, maps.half1, atol=1e-4 * np.abs(maps.half1).max())


def test_a_motion_is_proven_all_the_same(hinge: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.asarray(hinge.particles.state // 7, np.int64)
    half = hinge.images.half_set.numpy()
    few = np.where(np.arange(N) < 200, np.arange(N) // 2, np.arange(N))
    monkeypatch.setattr(states, "independent_rows", lambda images: one_half_of_each(few, half))
    found = [conclude(state.evidence).claim for state in iterate_states(hinge.images, label, hinge.consensus)]
    assert found == ["proven"] * 3


def test_particles_picked_twice_are_known_by_their_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_relion_project(Path(), simulate_particles(60, motion="rigid", box_size=20, pixel_size_A=12.0, snr=1.0))
    tables = starfile.read("particles.star")
    rows = tables["particles"]
    for name in ("rlnCoordinateX", "rlnCoordinateY"):
        rows.loc[30, name] = rows.loc[0, name] + 1
    rows.loc[30, "rlnMicrographName"] = rows.loc[0, "rlnMicrographName"]
    rows.loc[[0, 30], "rlnRandomSubset"] = [1, 2]
    starfile.write(tables, "particles.star", overwrite=True)
    images = open_images(read_particles("particles.star"), tmp_path / "store", PreprocessSettings(data_sign="white"))
    assert images.half_set[[0, 30]].tolist() == [1, 2]
    assert np.flatnonzero(~independent_rows(images)).tolist() == [30]
