"""Random initialisations of a reconstruction that may be interrupted: made when they are asked for, and only once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryodrgn_ext.images.checkpoint_file import CheckpointFile
from cryodrgn_ext.images.particle_images import ParticleImages
from cryodrgn_ext.images.poses import Poses
from cryodrgn_ext.pose.random_initialisations import Initialisation, choose_rows, make_initialisations
from cryodrgn_ext.pose.reconstruct_settings import ReconstructSettings
from cryodrgn_ext.progress import Monitor


class KeptInitialisations:
    """Random initialisations, kept on disk as they are made.

    Parameters
    ----------
    images : ParticleImages
    settings : ReconstructSettings
    file : CheckpointFile
        Where those of an interrupted run are found.
    monitor : Monitor
    """

    def __init__(
        self, images: ParticleImages, settings: ReconstructSettings, file: CheckpointFile, monitor: Monitor
    ) -> None:
        self.images, self.settings, self.file, self.monitor = images, settings, file, monitor
        self.rows = choose_rows(images, settings)
        self.made: list[Initialisation] = []
        self.returned = settings.initialisations
        device = torch.device(images.rotation.device if settings.device is None else settings.device)
        found = file.load()
        if found is None:
            return
        numbers, tensors = found
        for i, seed in enumerate(numbers["seeds"]):
            volume, rotation, shift = (tensors[f"{name}{i}"].to(device) for name in ("map", "rotation", "shift_px"))
            fit = float(numbers["log_likelihood"][i])
            self.made.append(Initialisation(int(seed), volume, Poses(rotation, shift), fit))
        monitor.message(f"Continuing after {len(self.made)} random initialisations.")

    def first(self) -> list[Initialisation]:
        """Return as many as the settings ask for; those that an interrupted run made come later again."""
        self._until(self.settings.initialisations)
        return self.made[: self.settings.initialisations]

    def another(self) -> Initialisation:
        """Return one more than were returned so far."""
        self.returned += 1
        self._until(self.returned)
        return self.made[self.returned - 1]

    def _until(self, count: int) -> None:
        if len(self.made) < count:
            self.monitor.message(f"Random initialisations from {len(self.rows)} of {self.images.n} particles.")
            self.made = make_initialisations(
                self.images, self.rows, self.settings, self.monitor, count, self.made, self._keep
            )

    def _keep(self, made: Sequence[Initialisation]) -> None:
        numbers = {
            "seeds": [one.seed for one in made],
            "log_likelihood": [one.log_likelihood for one in made],
            "finished": len(made) >= self.settings.initialisations,
        }
        tensors: dict[str, Tensor] = {}
        for i, one in enumerate(made):
            tensors |= {f"map{i}": one.map, f"rotation{i}": one.poses.rotation, f"shift_px{i}": one.poses.shift_px}
        self.file.save(numbers, tensors)
