"""Options of engines stand once: a job that offers an engine has its options, with its defaults, and hands them on."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cryodrgn_ext.engines.base import ENGINES
from cryodrgn_ext.engines.choice import choose_engine
from cryodrgn_ext.engines.neural.pose_search_settings import NeuralAbinitSettings
from cryodrgn_ext.engines.neural.settings import NeuralSettings
from cryodrgn_ext.engines.settings import ComputeSettings, EngineSettings, options_of
from cryodrgn_ext.engines.subspace.settings import SubspaceSettings
from cryodrgn_ext.options.abinit import AbinitSettings
from cryodrgn_ext.options.train import TrainSettings
from cryodrgn_ext.settings import Settings

GIVEN: dict[str, Any] = {"in_parts": Path("particles.star"), "o": Path("out")}
OFFERED = [
    (TrainSettings, SubspaceSettings), (TrainSettings, NeuralSettings), (TrainSettings, ComputeSettings),
    (AbinitSettings, SubspaceSettings), (AbinitSettings, NeuralAbinitSettings), (AbinitSettings, ComputeSettings),
]  # fmt: skip
#: A job that finds one structure unless it is asked for more.
OF_THE_JOB = {(AbinitSettings, "zdim")}


@pytest.mark.parametrize(("job", "engine"), OFFERED)
def test_defaults_of_a_job_are_those_of_its_engines(job: type[Settings], engine: type[Settings]) -> None:
    offered = {field.name: field.default for field in fields(job)}
    for field in fields(engine):
        if (job, field.name) not in OF_THE_JOB:
            assert offered[field.name] == field.default, field.name
    handed_on, own = options_of(engine, job(**GIVEN)), engine()
    if isinstance(handed_on, EngineSettings) and isinstance(own, EngineSettings):
        own = replace(own, zdim=handed_on.zdim)
    assert handed_on == own


def test_every_engine_of_the_registry_is_offered_by_train() -> None:
    for engine in ENGINES.values():
        assert engine.options_of(TrainSettings(**GIVEN)) == engine.settings_class()


def test_what_the_user_gave_reaches_the_engine() -> None:
    settings = TrainSettings(**GIVEN, rare_states=0, zdim=3, epochs=7)
    assert options_of(SubspaceSettings, settings) == SubspaceSettings(rare_states=0, zdim=3)
    assert options_of(NeuralSettings, settings) == NeuralSettings(rare_states=0, zdim=3, epochs=7)


def test_options_of_the_same_name_that_are_others_are_left_behind() -> None:
    """The passes and layers of abinit are those of its search; the model that it learns at the end has its own."""
    settings = AbinitSettings(**GIVEN, zdim=2, epochs=90, dec_dim=32, precision="float32")
    assert options_of(NeuralSettings, settings) == NeuralSettings(zdim=2)
    assert options_of(NeuralAbinitSettings, settings) == NeuralAbinitSettings(
        zdim=2, epochs=90, dec_dim=32, precision="float32"
    )


@pytest.mark.parametrize(
    ("given", "chosen"),
    [({}, "subspace"), ({"zdim": 0}, "neural"), ({"zdim": 40}, "neural"), ({"epochs": 3}, "neural"),
     ({"rare_states": 0, "seed": 4}, "subspace"), ({"engine": "subspace", "epochs": 3}, "subspace")],
)  # fmt: skip
def test_auto_takes_the_network_for_what_only_it_does(given: dict[str, Any], chosen: str) -> None:
    settings = TrainSettings(**GIVEN, **given)
    assert choose_engine(settings.engine, settings) == chosen
