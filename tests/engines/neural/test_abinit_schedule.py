"""Which passes search and which only learn: the published schedule, and where its pieces go."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings, plan_abinit
from cryodrgn_ext.engines.neural.schedule import Pass, make_schedule
from cryodrgn_ext.errors import InputError

N = 50_000


def schedule(settings: NeuralAbinitSettings, n: int = N, started: bool = False) -> tuple[Pass, ...]:
    return make_schedule(plan_abinit(settings, 0, n, 128, 63), n, started)


def stage(passes: tuple[Pass, ...], name: str) -> list[Pass]:
    return [p for p in passes if p.stage == name]


def test_published_schedule() -> None:
    passes = schedule(NeuralAbinitSettings(retrain="none"))
    assert [p.images for p in stage(passes, "random")] == [10_000]
    joint = stage(passes, "joint")
    assert [i for i, p in enumerate(joint) if p.search] == [0, 5, 10, 15, 20, 25]
    assert len(joint) == 30
    assert not any(p.reset for p in passes)


def test_model_is_reset_once_and_retrained_at_fixed_poses() -> None:
    passes = schedule(NeuralAbinitSettings(retrain="r+ps"))
    assert [p.stage for p in passes if p.reset] == ["retrain"]
    assert not any(p.search for p in stage(passes, "retrain"))
    again = stage(passes, "again")
    assert sum(p.search for p in again) == 6
    assert len(again) == 30
    assert not stage(schedule(NeuralAbinitSettings(retrain="r")), "again")


def test_band_grows_and_network_learns_what_is_searched() -> None:
    passes = schedule(NeuralAbinitSettings())
    joint = stage(passes, "joint")
    assert all(b.k_max >= a.k_max for a, b in pairwise(joint))
    assert (joint[0].k_max, joint[-1].k_max) == (12.0, 32.0)
    assert all(p.radius >= p.k_max for p in passes)


def test_last_pass_only_searches_with_the_final_network() -> None:
    last = schedule(NeuralAbinitSettings())[-1]
    assert last.search
    assert not last.train
    assert last.images == N


def test_network_learns_between_searches_as_long_as_the_volume_is_forming() -> None:
    passes = schedule(NeuralAbinitSettings(), n=3000)
    assert {p.block for p in stage(passes, "joint")} == {150}
    assert {p.block for p in stage(passes, "again")} == {512}


def test_given_poses_take_the_place_of_the_first_stage() -> None:
    passes = schedule(NeuralAbinitSettings(), started=True)
    assert {p.stage for p in passes} == {"retrain", "again", "final"}
    assert not passes[0].search
    assert not passes[0].reset


def test_learning_rate_decays_over_the_last_stage_only() -> None:
    passes = schedule(NeuralAbinitSettings())
    assert {p.decay for p in passes if p.stage in ("random", "joint", "retrain")} == {0.0}
    decay = [p.decay for p in stage(passes, "again")]
    assert decay == sorted(decay)
    assert 0.9 < decay[-1] < 1


def test_small_sets_see_random_orientations_and_passes_often_enough() -> None:
    passes = schedule(NeuralAbinitSettings(random_images=2500), n=1000)
    assert [p.images for p in stage(passes, "random")] == [1000, 1000, 500]
    assert len(stage(passes, "joint")) > 30


def test_bands_and_shifts_fit_the_box() -> None:
    plan = plan_abinit(NeuralAbinitSettings(), 0, 1000, 32, 11)
    assert plan.k_min == plan.k_max == 11
    assert plan.shift_extent_px == 5.0


def test_contradictions_are_refused() -> None:
    with pytest.raises(InputError, match="--k_max 8 is below"):
        plan_abinit(replace(NeuralAbinitSettings(), k_max=8.0), 0, 1000, 128, 63)
    with pytest.raises(InputError, match="shifts of up to 70 px"):
        plan_abinit(NeuralAbinitSettings(), 0, 1000, 128, 63, max_shift_px=70.0)
