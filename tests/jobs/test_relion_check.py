"""RELION's own reconstructions of returned sets: whether differences come back, on a motion and on chance."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.convert import convert
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.options.convert import ConvertSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.results.consensus import Consensus
from cryodrgn_ext.simulate import load_truth
from cryodrgn_ext.workflow import relion_check
from cryodrgn_ext.workflow.relion_check import compare_differences
from tests.jobs.conftest import SETTINGS, FinishedProject
from tests.jobs.fake_engine import FakeEngine
from tests.jobs.test_validate import CHECKED, VALIDATE, said
from tests.map_labels import unlabelled


@pytest.mark.relion
def test_a_motion_comes_back_in_relion_and_chance_does_not(finished: FinishedProject) -> None:
    """Sets by the true angle, and at random: those of the file's rows are what RELION is given."""
    angle = load_truth(next(Path().rglob("truth.npz"))).coordinates[:, 0]
    ends = np.argsort(angle)
    for name, rows in (("low", ends[:60]), ("high", ends[60:])):
        np.savetxt(f"{name}.txt", rows, "%d")
    text = said(replace(VALIDATE, indices=("low.txt", "high.txt"), relion_check="refine"))
    assert text.count("comes back (correlation") == 4
    assert text.count("After relion_refine from the map of all it comes back") == 2
    checked = yaml.safe_load((CHECKED.root / "job.yaml").read_text())["results"]["relion_check"]
    assert all(one["comes_back"] and one["resolution_A"] > 0 for one in checked)
    assert all(one["refined"]["comes_back"] and one["refined"]["resolution_A"] > 0 for one in checked)
    assert (CHECKED.state(0) / "relion/refined/half1.mrc").exists()
    assert not list(CHECKED.root.rglob("work?")), "RELION's other files are not kept"
    assert (CHECKED.state(0) / "relion/postprocess.star").exists()
    assert unlabelled(CHECKED.root) == []
    assert "own reconstructions" in CHECKED.report.read_text()
    for number, part in enumerate((slice(None, None, 2), slice(1, None, 2))):
        np.savetxt(f"chance{number}.txt", ends[part], "%d")
    said(replace(VALIDATE, indices=("chance0.txt", "chance1.txt"), relion_check="yes"))
    checked = yaml.safe_load((CHECKED.root / "job.yaml").read_text())["results"]["relion_check"]
    assert not any(one["comes_back"] for one in checked)


def test_differences_are_compared_in_the_mask_and_where_the_consensus_is_good() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((24, 24, 24), np.float32)
    mask[6:18, 6:18, 6:18] = 1
    fsc = np.where(np.arange(13) < 8, 1.0, 0.0)
    consensus = Consensus(mask, mask, fsc, 20.0, 5.0)

    def smooth() -> NDArray[np.float32]:
        spectrum = np.fft.fftn(rng.normal(size=mask.shape))
        k = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.fft.fftfreq(24) * 24] * 3)))
        return np.asarray(np.fft.ifftn(spectrum * (k <= 5)).real, np.float32)

    difference = smooth()
    assert compare_differences([difference, difference], difference, consensus) == pytest.approx((1.0, 1.0))
    fine = [difference + np.float32((-1) ** number) * _checkerboard() for number in range(2)]
    assert compare_differences(fine, difference, consensus) == pytest.approx((1.0, 1.0), abs=1e-3)
    assert abs(compare_differences([difference, smooth()], difference, consensus)[0]) < 0.4


def _checkerboard() -> NDArray[np.float32]:
    """The highest frequency there is, far beyond where the consensus is good."""
    return np.asarray(5 * (-1.0) ** np.indices((24, 24, 24)).sum(axis=0), np.float32)


def test_what_relion_cannot_do_is_refused_before_anything_is_done(
    finished: FinishedProject, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        with pytest.raises(InputError, match="needs relion_reconstruct, which is not on the PATH"):
            validate(replace(VALIDATE, relion_check="yes"), SilentMonitor())
    convert(ConvertSettings(in_parts=Path("particles.star"), o=Path("particles.cs")), SilentMonitor())
    train(replace(SETTINGS, in_parts=Path("particles.cs"), o=Path("of_cs")), SilentMonitor())
    monkeypatch.setattr(relion_check, "PROGRAMS", ())
    with pytest.raises(InputError, match="needs particles of a STAR file"):
        validate(replace(VALIDATE, in_parts=Path("of_cs"), relion_check="yes"), SilentMonitor())
    assert not CHECKED.root.exists()
