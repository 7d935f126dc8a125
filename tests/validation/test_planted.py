"""States' differences planted into images of one structure: as they are, and found as the dose says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.reconstruction.half_maps import reconstruct_half_maps
from cryodrgn_ext.simulate.truth import ground_truth
from cryodrgn_ext.validation.evidence import Verdict
from cryodrgn_ext.validation.image_errors import ImageErrors
from cryodrgn_ext.validation.null_images import make_null_images
from cryodrgn_ext.validation.planted import (
    DOSES,
    Dose,
    Planted,
    PowerFinding,
    agreement_of_states,
    state_differences,
)
from cryodrgn_ext.validation.states import iterate_states
from cryodrgn_ext.validation.verdict import NOT_SHOWN, PROVEN, Conclusion

from .conftest import Case

EXACT = ImageErrors(0.0, 0.0, 0.0)


def labels(case: Case) -> np.ndarray:
    return np.asarray(case.particles.state // 7, np.int64)


def true_differences(case: Case, label: np.ndarray) -> list[np.ndarray]:
    truth = ground_truth(case.particles)
    volumes = truth.volumes(case.images.box_size)

    def mean(rows: np.ndarray) -> np.ndarray:
        return np.tensordot(np.bincount(truth.state[rows], minlength=len(volumes)) / rows.sum(), volumes, 1)

    return [mean(label == one) - mean(label >= 0) for one in np.unique(label)]


def test_differences_are_those_of_the_states_and_of_one_structure_there_are_none(hinge: Case, rigid: Case) -> None:
    """Held against the true volumes of the states of each label."""
    label = labels(hinge)
    found = state_differences(hinge.images, label)
    truth = true_differences(hinge, label)
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(found, truth, strict=True)) > 0.8
    strength = [float((a * b).sum() / (b * b).sum()) for a, b in zip(found, truth, strict=True)]
    assert np.mean(strength) == pytest.approx(0.9, abs=0.2), "filtered, but not weaker by much"
    nothing = state_differences(rigid.images, label)
    assert np.square(nothing).mean() < 0.05 * np.square(found).mean()


def test_what_is_planted_is_found_by_its_dose(hinge: Case, tmp_path: Path) -> None:
    label = labels(hinge)
    differences = state_differences(hinge.images, label)
    verdicts, amounts = [], []
    for dose in (Dose(0.0), Dose(1.0), Dose(1.0, 0.5)):
        planted = Planted.at(dose, differences, label, 1)
        assert np.mean(planted.label >= 0) == pytest.approx(dose.share, abs=0.06)
        path = tmp_path / f"{dose.strength}_{dose.share}.npy"
        made = make_null_images(hinge.images, hinge.consensus.map, EXACT, (0,), path, SilentMonitor(), planted)
        states = list(iterate_states(made, label, reconstruct_half_maps(made)))
        verdicts.append({state.evidence.verdict for state in states})
        again = state_differences(made, label)
        amounts.append(float((again * differences).sum() / (differences * differences).sum()))
    assert verdicts[0] == {Verdict.NOT_DISTINGUISHABLE}
    assert verdicts[1] == {Verdict.DISTINCT}
    assert abs(amounts[0]) < 0.1
    assert amounts[1] == pytest.approx(0.9, abs=0.2)
    assert amounts[2] == pytest.approx(0.45, abs=0.15)


def conclusions(claimed: int) -> list[Conclusion]:
    return [Conclusion(PROVEN)] * claimed + [Conclusion(NOT_SHOWN)] * (4 - claimed)


def test_the_least_that_is_found_is_said() -> None:
    runs = {Dose(0.0): [(conclusions(0), 0.0)] * 2}
    found = {0.25: (0, 0), 0.5: (2, 0), 1.0: (4, 4)}
    runs |= {Dose(amount): [(conclusions(n), 0.5) for n in each] for amount, each in found.items()}
    runs |= {Dose(1.0, 0.25): [(conclusions(2), 0.4)] * 2, Dose(1.0, 0.5): [(conclusions(0), 0.1)] * 2}
    power = PowerFinding.of(runs)
    assert [one.found for one in power.doses] == [0, 0, 1, 2, 2, 0]
    assert [one.claimed for one in power.doses] == [0, 0, 2, 8, 4, 0]
    text = power.sentence()
    assert "down to 100% of their strength" in text, "one of two sets is not most of them"
    assert "as few as" not in text, "a smaller share that is found by luck is not the least"
    assert PowerFinding.from_plain(power.plain()) == power
    nothing = PowerFinding.of({dose: [(conclusions(0), 0.0)] for dose in (Dose(0.0), *DOSES)})
    assert "not found in most sets" in nothing.sentence()
    assert "mostly noise" in nothing.sentence(claimed=False)
    assert "would be missed as well" in nothing.sentence(claimed=False)
    assert "down to 100% of its strength" in power.sentence(claimed=False)
    every = PowerFinding.of({dose: [(conclusions(4), 0.9)] for dose in DOSES})
    assert "down to 25% of their strength, and in as few as 25% of the particles" in every.sentence()


def test_agreement_counts_particles_that_have_both() -> None:
    planted = np.array([0, 0, 1, 1, -1, -1])
    assert agreement_of_states(planted, np.array([5, 5, 2, 2, 2, -1])) == 1.0
    assert agreement_of_states(planted, np.full(6, -1)) == 0.0
