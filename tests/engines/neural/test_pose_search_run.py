"""Ab initio reconstruction with the neural decoder: poses get better, runs can be stopped, bad input is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from cryodrgn_ext.engines.base import load_heterogeneity
from cryodrgn_ext.engines.neural.pose_search_engine import NeuralAbInitio, train_abinit
from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.neural.tilt_pairs import hand_by_tilts, tilt_rotation
from cryodrgn_ext.errors import InputError, JobAborted, ResumeError
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.metrics import align_poses
from tests.engines.contexts import context
from tests.monitors import RecordingMonitor
from tests.pose.phantoms import Phantom, phantom

TILT_DEG = 40.0
TINY = NeuralAbinitSettings(
    epochs=2, search_every=1, random_images=40, grid_deg="30", refinements=1, keep_poses=2, shift_steps=3, dec_layers=1,
    dec_dim=32, enc_layers=1, enc_dim=32, k_min=6.0, k_max=8.0, precision="float32", tilt_deg=TILT_DEG,
    learning_rate=1e-3, search_volumes=2,
)  # fmt: skip


@dataclass(frozen=True)
class Pairs:
    first: Phantom
    second: Phantom


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    first = phantom(80, box_size=24, snr=0.5, shift_px=2.0)
    turned = tilt_rotation(TILT_DEG) @ first.rotation
    return Pairs(first, phantom(80, box_size=24, snr=0.5, shift_px=2.0, seed=5, rotation=turned))


def rough(truth: Phantom, degrees: float, shift_px: float) -> Poses:
    rng = np.random.default_rng(4)
    n = len(truth.rotation)
    turn = Rotation.from_rotvec(np.deg2rad(degrees) / np.sqrt(3) * rng.normal(size=(n, 3))).as_matrix()
    return Poses.of(turn @ truth.rotation.numpy(), truth.shift_px.numpy() + rng.normal(0, shift_px, (n, 2)))


def same(a: NeuralAbInitio, b: NeuralAbInitio) -> None:
    assert torch.equal(a.poses.rotation, b.poses.rotation)
    assert torch.equal(a.poses.shift_px, b.poses.shift_px)
    np.testing.assert_array_equal(a.map, b.map)
    np.testing.assert_array_equal(a.heterogeneity.z, b.heterogeneity.z)
    assert a.loss_history == b.loss_history
    assert a.search_history == b.search_history


def test_network_and_search_improve_rough_poses() -> None:
    truth = phantom(200, box_size=24, snr=2.0, shift_px=2.0)
    initial = rough(truth, 10.0, 0.7)
    settings = replace(
        TINY, epochs=8, search_every=4, refinements=3, keep_poses=4, k_max=11.0, dec_dim=64, learning_rate=5e-3,
        grid_deg="15", batch=16,
    )  # fmt: skip
    found = train_abinit(truth.images, settings, context(), initial)
    before = align_poses(initial, truth.poses)
    after = align_poses(found.poses, truth.poses)
    assert not after.transform.mirrored
    assert np.median(after.errors.degrees) < 0.7 * np.median(before.errors.degrees)
    assert np.median(after.errors.shift_px) < 0.5 * np.median(before.errors.shift_px)
    assert np.corrcoef(found.map.ravel(), truth.density.numpy().ravel())[0, 1] > 0.95
    assert found.search_history["log_likelihood"][-1] > 0


@pytest.mark.parametrize(
    "settings", [TINY, replace(TINY, zdim=2), replace(TINY, zdim=2, latents="table")], ids=["one", "encoder", "table"]
)
def test_stopped_run_continues_to_the_same_result(pairs: Pairs, settings: NeuralAbinitSettings, tmp_path: Path) -> None:
    images = pairs.first.images
    whole = train_abinit(images, settings, context())
    stops = 0
    while True:
        try:
            continued = train_abinit(images, settings, context(tmp_path, RecordingMonitor(polls=6)))
            break
        except JobAborted:
            stops += 1
    assert stops > 1
    same(whole, continued)
    # Finished: nothing is done anew.
    again = train_abinit(images, settings, context(tmp_path, RecordingMonitor(polls=6)))
    same(whole, again)


@pytest.mark.parametrize("latents", ["encoder", "table"])
def test_latents_are_not_learned_beside_random_orientations(pairs: Pairs, latents: str) -> None:
    settings = replace(TINY, zdim=2, latents=latents, epochs=1, random_images=80, retrain="none")
    found = train_abinit(pairs.first.images, settings, context())
    at_random, joint = found.loss_history["kl"]
    assert at_random == 0.0
    assert joint > 0.0


def test_checkpoint_of_other_settings_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    quick = replace(TINY, retrain="none", epochs=1, random_images=0)
    train_abinit(pairs.first.images, quick, context(tmp_path))
    with pytest.raises(ResumeError, match="other settings"):
        train_abinit(pairs.first.images, replace(quick, epochs=2), context(tmp_path))
    with pytest.raises(ResumeError, match="other settings"):
        train_abinit(pairs.second.images, quick, context(tmp_path))


@pytest.mark.parametrize(("latents", "volumes"), [("encoder", 0), ("table", 2)])
def test_pairs_share_rotation_and_latent(pairs: Pairs, latents: str, volumes: int, tmp_path: Path) -> None:
    settings = replace(
        TINY, zdim=1, latents=latents, search_volumes=volumes, epochs=1, random_images=0, refinements=0, retrain="none"
    )
    found = train_abinit(pairs.first.images, settings, context(), tilted=pairs.second.images)
    assert found.poses.rotation.shape == (80, 3, 3)
    assert found.tilted_shift_px is not None
    assert found.tilted_shift_px.shape == (80, 2)
    assert found.poses.shift_px.shape == (80, 2)
    assert found.heterogeneity.z.shape == (80, 1)
    found.heterogeneity.save(tmp_path)
    loaded = load_heterogeneity(tmp_path)
    np.testing.assert_array_equal(loaded.z, found.heterogeneity.z)
    z = found.heterogeneity.z[:1]
    np.testing.assert_array_equal(next(loaded.volumes(z)), next(found.heterogeneity.volumes(z)))


def test_pairs_are_trained_and_searched_with_the_tilt_between_them(pairs: Pairs) -> None:
    """Started at the truth, both images agree only with the tilt that there was."""
    initial = pairs.first.poses
    settings = replace(TINY, epochs=6, search_every=6, learning_rate=2e-3, refinements=2, grid_deg="15")
    gain = {}
    for tilt_deg in (TILT_DEG, -TILT_DEG):
        chosen = replace(settings, tilt_deg=tilt_deg)
        found = train_abinit(pairs.first.images, chosen, context(), initial, pairs.second.images)
        gain[tilt_deg] = found.search_history["log_likelihood"][-1]
    assert gain[TILT_DEG] > gain[-TILT_DEG]


def test_tilts_tell_the_hand_of_a_map(pairs: Pairs) -> None:
    density = pairs.first.density
    turn = tilt_rotation(TILT_DEG)
    right, wrong = hand_by_tilts(pairs.first.images, pairs.second.images, turn, density, 2.0, 0)
    assert right > wrong + 1.0
    mirrored = density.flip(0).roll(1, 0)
    assert hand_by_tilts(pairs.first.images, pairs.second.images, turn, mirrored, 2.0, 0) == (wrong, right)


def test_tilt_turns_about_its_axis() -> None:
    turn = tilt_rotation(30.0, 0.0)
    torch.testing.assert_close(turn @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(turn @ torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, -0.5, 0.75**0.5]))
    torch.testing.assert_close(tilt_rotation(30.0, 90.0) @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))


def test_bad_input_is_refused_in_one_sentence(pairs: Pairs) -> None:
    images = pairs.first.images
    some = images.subset(torch.arange(10))
    with pytest.raises(InputError, match=r"tilted set has 10 particles, the untilted one 80"):
        train_abinit(images, TINY, context(), tilted=some)
    with pytest.raises(InputError, match=r"--tilt_deg 0 is no tilt"):
        train_abinit(images, replace(TINY, tilt_deg=0.0), context(), tilted=images)
    initial = rough(pairs.first, 1.0, 0.1)
    with pytest.raises(InputError, match=r"poses of the same particles"):
        train_abinit(some, TINY, context(), initial)
    initial.rotation[7] *= -1
    with pytest.raises(InputError, match=r"particle 7 \(from 0\)"):
        train_abinit(images, TINY, context(), initial)
    with pytest.raises(InputError, match=r"at least 2 particles"):
        train_abinit(images.subset(torch.arange(1)), TINY, context())
