"""Random initialisations: which are the same, which is the likeliest, and how many are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose import random_initialisations
from cryodrgn_ext.pose.coordinate_transform import CoordinateTransform
from cryodrgn_ext.pose.random_initialisations import (
    Initialisation,
    choose_rows,
    distinct_initialisations,
    make_initialisations,
    report_initialisations,
)
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from tests.monitors import RecordingMonitor
from tests.pose.phantoms import phantom

N = 200


def initialisation(seed: int, log_likelihood: float, rotation: np.ndarray) -> Initialisation:
    poses = Poses(torch.from_numpy(rotation).float(), torch.zeros(len(rotation), 2))
    return Initialisation(seed, torch.zeros(8, 8, 8), poses, log_likelihood)


@pytest.fixture(scope="module")
def three() -> list[Initialisation]:
    """A poor one, the best one, and the other hand of the best one in other coordinates, with lost images."""
    rotation = Rotation.random(N, rng=1).as_matrix()
    transform = CoordinateTransform(Rotation.random(rng=2).as_matrix(), np.zeros(3), mirrored=True)
    same = transform.poses(Poses.of(rotation, np.zeros((N, 2)))).rotation.numpy()
    same[: N // 4] = Rotation.random(N // 4, rng=3).as_matrix()
    poor = Rotation.random(N, rng=4).as_matrix()
    return [initialisation(5, 10.0, poor), initialisation(6, 20.0, rotation), initialisation(7, 19.0, same)]


def test_reports_tell_agreement_and_hand(three: list[Initialisation]) -> None:
    best, reports = report_initialisations(three)
    assert best.seed == 6
    assert [report.seed for report in reports] == [5, 6, 7]
    assert reports[0].agreement < 0.2
    assert reports[1].agreement == 1.0
    assert not reports[1].mirrored
    assert 0.7 < reports[2].agreement < 0.85
    assert reports[2].mirrored


def test_those_that_found_the_same_count_once(three: list[Initialisation]) -> None:
    assert [one.seed for one in distinct_initialisations(three)] == [6, 5]


def test_they_are_made_until_there_are_enough(monkeypatch: pytest.MonkeyPatch, three: list[Initialisation]) -> None:
    remaining, kept = list(three), []
    monkeypatch.setattr(random_initialisations, "make_initialisation", lambda *_: remaining.pop(0))
    images, settings = phantom(4, box_size=16, snr=None).images, ReconstructSettings()
    rows, monitor = torch.arange(4), RecordingMonitor()
    made = make_initialisations(images, rows, settings, monitor, 2, keep=lambda now: kept.append(len(now)))
    assert [one.seed for one in made] == [5, 6]
    assert kept == [1, 2]
    assert make_initialisations(images, rows, settings, monitor, 3, made) == three


def test_rows_are_a_random_sample() -> None:
    images = phantom(60, box_size=16, snr=None).images
    rows = choose_rows(images, ReconstructSettings(initialisation_particles=20, seed=3))
    assert len(rows.unique()) == 20
    assert torch.equal(rows, choose_rows(images, ReconstructSettings(initialisation_particles=20, seed=3)))
    assert not torch.equal(rows, choose_rows(images, ReconstructSettings(initialisation_particles=20, seed=4)))
    assert torch.equal(choose_rows(images, ReconstructSettings(initialisation_particles=100)), torch.arange(60))
