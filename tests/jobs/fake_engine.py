"""An engine that learns nothing in no time, for tests of what happens around engines."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cryodrgn_ext.engines import base, saved_model

MODULE = "tests.jobs.fake_engine_module"


@dataclass
class FakeResult:
    """Latents along a line; volumes are the consensus times 1 + the first latent."""

    z: NDArray[np.float32]
    consensus: NDArray[np.float32]
    pixel_size_A: float
    loss_history: dict[str, list[float]]
    z_cov: NDArray[np.float32] | None = None

    @property
    def box_size(self) -> int:
        return len(self.consensus)

    def volumes(self, z: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        for row in z:
            yield self.consensus * (1 + (row[0] if len(row) else 0))

    def save(self, directory: Path) -> None:
        np.savez(directory / "fake.npz", z=self.z, consensus=self.consensus)
        saved_model.write_description(directory, "neural", {"pixel": self.pixel_size_A, "loss": self.loss_history})


def load(directory: Path) -> FakeResult:
    description = saved_model.read_description(directory)
    with np.load(directory / "fake.npz") as arrays:
        return FakeResult(arrays["z"], arrays["consensus"], description["pixel"], description["loss"])


@dataclass
class FakeEngine:
    """Counts its calls; raises ``error`` when there is one, after it has left a checkpoint."""

    calls: list[dict[str, object]] = field(default_factory=list)
    error: BaseException | None = None

    def train(self, images, consensus, settings, context, consensus_radius=None, **_):  # type: ignore[no-untyped-def]
        context.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        (context.checkpoint_dir / "begun").touch()
        self.calls.append({"n": images.n, "epochs": getattr(settings, "epochs", None), "radius": consensus_radius})
        if self.error is not None:
            raise self.error
        rng = np.random.default_rng(context.seed)
        z = rng.normal(size=(images.n, settings.zdim)).astype(np.float32)
        return FakeResult(z, consensus, images.pixel_size_A, {"total": [1.0, 0.5]})


def install(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Put a fake in the place of all engines."""
    engine = FakeEngine()
    module = types.ModuleType(MODULE)
    module.train = engine.train  # type: ignore[attr-defined]
    module.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    for name, known in tuple(base.ENGINES.items()):
        monkeypatch.setitem(base.ENGINES, name, base.Engine(name, MODULE, known.settings_class))
    return engine
