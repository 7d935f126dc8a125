"""The training repeated on images of one structure: the whole path, going on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.train import train
from cryodrgn_ext.jobs.validate import validate
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.progress import SilentMonitor
from cryodrgn_ext.simulate import simulate_particles, write_relion_project
from cryodrgn_ext.validation.null_images import make_null_images
from tests.jobs.conftest import SETTINGS, FinishedProject
from tests.jobs.fake_engine import FakeEngine
from tests.jobs.test_validate import CHECKED, VALIDATE, said


def results() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((CHECKED.root / "job.yaml").read_text())["results"]
    return found


@pytest.mark.slow
def test_a_motion_is_found_in_the_particles_and_not_in_images_of_one_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default engine, from particles to verdict; the null by the same way, and the half-sets apart."""
    monkeypatch.chdir(tmp_path)
    particles = simulate_particles(600, motion="hinge", box_size=24, pixel_size_A=10.0, snr=0.3, max_shift_px=1.0)
    write_relion_project(Path(), particles)
    train(TrainSettings(in_parts=Path("particles.star"), o=Path("out"), zdim=2, states=2, volumes=0, device="cpu"),
          SilentMonitor())  # fmt: skip
    validate(replace(VALIDATE, null=1, independent_halves=True), SilentMonitor())
    found = results()
    assert [state["conclusion"] for state in found["states"]] == ["proven", "proven"]  # type: ignore[attr-defined]
    assert found["null"] == {**found["null"], "runs": 1, "states": 2, "proven": 0}  # type: ignore[dict-item]
    assert "claimed 0 of 2 states" in str(found["found"])
    assert not list(CHECKED.checkpoint.glob("null_0*/*")), "images of one structure are not kept"
    halves = found["independent_halves"]
    assert [state["shared"] for state in halves["states"]] == [True, True]  # type: ignore[index]
    assert max(halves["agreement"]) > 0.8  # type: ignore[index]
    assert "Two models that never met" in CHECKED.report.read_text()


def test_a_model_that_invents_has_nothing_in_common_with_another(finished: FinishedProject, engine: FakeEngine) -> None:
    """The fake's latents are random: each half is trained once, on its own images."""
    text = said(replace(VALIDATE, independent_halves=True))
    assert [call["n"] for call in engine.calls] == [60, 60]
    assert "have 0 of 3 states in common" in text
    assert "done before" in said(replace(VALIDATE, independent_halves=True, keep_images=True))
    assert len(engine.calls) == 2


def test_every_set_is_made_once_and_a_claim_on_one_structure_counts_against_the_states(
    finished: FinishedProject, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(VALIDATE, null=2, keep_images=True)
    said(settings)
    assert len(engine.calls) == 2
    assert results()["null"]["states"] == 6  # type: ignore[index]
    text = said(replace(settings, null=3))
    assert len(engine.calls) == 3
    assert text.count("Images of one structure, set 1: done before") == 1


def test_what_could_have_been_found_is_told_dose_by_dose(finished: FinishedProject, engine: FakeEngine) -> None:
    """One structure and five doses are one training each; the fake's latents are random and find nothing."""
    text = said(replace(VALIDATE, power=1, keep_images=True))
    assert len(engine.calls) == 6
    doses: Any = results()["power"]
    assert [(one["strength"], one["share"]) for one in doses] == [
        (0.0, 1.0), (0.25, 1.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.25), (1.0, 0.5)
    ]  # fmt: skip
    assert all(one["runs"] == 1 and one["found"] == 0 and one["states"] == 3 for one in doses)
    assert "would be missed as well" in text
    assert "What these data could show" in CHECKED.report.read_text()
    assert not list(CHECKED.checkpoint.glob("power_*/*")), "images are not kept"
    assert results()["null"]["runs"] == 1  # type: ignore[index]
    again = said(replace(VALIDATE, power=1, keep_images=True))
    assert len(engine.calls) == 6
    assert "States planted at 25% of the strength, set 1: done before" in again


def test_power_needs_states(finished: FinishedProject, engine: FakeEngine) -> None:
    np.savetxt("all.txt", np.arange(120), "%d")
    with pytest.raises(InputError, match="--power plants the differences between states"):
        validate(replace(VALIDATE, power=1, indices=("all.txt",)), SilentMonitor())
    assert not CHECKED.root.exists()


def test_only_a_training_can_be_repeated(project: Path, engine: FakeEngine) -> None:
    train(replace(SETTINGS, zdim=0), SilentMonitor())
    with pytest.raises(InputError, match=r"halves repeat a training, .* homogeneous train job"):
        validate(replace(VALIDATE, null=1), SilentMonitor())
    assert not CHECKED.root.exists()


def test_the_training_is_repeated_as_it_was(finished: FinishedProject, engine: FakeEngine) -> None:
    """Also when the maps of validate are in another box: images as the training had them."""
    seen = []

    def watch(images, *rest):  # type: ignore[no-untyped-def]
        seen.append(images.box_size)
        return make_null_images(images, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryodrgn_ext.workflow.training.null_runs.make_null_images", watch)
        validate(replace(VALIDATE, null=1, box=16), SilentMonitor())
    trained = yaml.safe_load(Path("out/job.yaml").read_text())
    assert seen == [trained["results"]["box"]]
    assert np.isfinite(results()["null"]["shift_A"])  # type: ignore[index]
