"""What follows from the motion of a structure's atoms: evidence, states, their particles, maps and stereochemistry."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cryodrgn_ext.atoms.stereochemistry import Chemistry, Stereochemistry, stereochemistry
from cryodrgn_ext.atoms.structure import Structure, residue_centres, residue_widths
from cryodrgn_ext.engines.atomic.ensemble import carried_atoms
from cryodrgn_ext.engines.atomic.motion import (
    AtomicMotion,
    ResidueEvidence,
    along_motion,
    first_coordinate,
    residue_evidence,
)
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.engines.held_out import HeldOut, weighed
from cryodrgn_ext.fourier.fsc import fsc, resolution_A
from cryodrgn_ext.fourier.gaussians import gaussian_map
from cryodrgn_ext.images.maps import VolumeMap, read_map
from cryodrgn_ext.options.atomic import AtomicSettings
from cryodrgn_ext.results.atomic_files import FOLD_NAME, MOTION_NAME, read_fold, read_motion
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.learned_result import LearnedResult

HALF = 0.5


@dataclass(frozen=True)
class Findings:
    """What follows from a motion.

    Attributes
    ----------
    result : LearnedResult
        That the job went on from.
    model : Heterogeneity
        Of that result.
    structure : Structure
        In the frame of the map.
    motion : AtomicMotion
    held_out : HeldOut or None
        What single images gain by the model that their latents are of.
    history : ndarray
        Loss of each pass, where the atoms were learned in passes.
    """

    result: LearnedResult
    model: Heterogeneity
    structure: Structure
    motion: AtomicMotion
    held_out: HeldOut | None
    history: NDArray[np.float64]

    @classmethod
    def read(
        cls,
        directory: Path,
        settings: AtomicSettings,
        result: LearnedResult,
        model: Heterogeneity,
        structure: Structure,
    ) -> Findings:
        """From the files of the finished stages."""
        motion = read_motion(directory / MOTION_NAME)
        held_out, history = weighed(model), np.empty(0)
        if settings.method != "fast":
            own, history = read_fold(directory / FOLD_NAME)
            given = settings.method == "cryofold" and settings.latents == "training"
            held_out = held_out if given else own
        return cls(result, model, structure, motion, held_out, history)

    @cached_property
    def evidence(self) -> ResidueEvidence:
        """Of each residue."""
        _, electrons, residue = residue_centres(self.structure)
        return residue_evidence(self.motion, residue, electrons)

    @cached_property
    def place_A(self) -> NDArray[np.float64]:
        """(N,) place of each particle along the largest motion."""
        place: NDArray[np.float64] = self.motion.probability @ first_coordinate(self.motion)
        return place

    @cached_property
    def members(self) -> dict[int, NDArray[np.int64]]:
        """Rows of the particles of each state of the result; none where it has no states."""
        states = self.result.states
        if states is None:
            return {}
        used = self.motion.probability.sum(axis=1) > HALF
        rows = {number: np.flatnonzero((states.label == number) & used) for number in range(states.n_states)}
        return {number: found for number, found in rows.items() if len(found)}

    @cached_property
    def states(self) -> dict[int, NDArray[np.float64]]:
        """Centres (C, 3) of each state: the mean over where its particles may lie."""
        return {
            number: np.tensordot(self.motion.probability[rows].mean(axis=0), self.motion.positions, axes=1)
            for number, rows in self.members.items()
        }

    @cached_property
    def maps(self) -> dict[int, Path]:
        """Maps of the states, from the particles alone, of those states that have one."""
        result = self.result
        layout = Layout(result.states_directory or result.directory)
        paths = {number: (layout.state(number) / "map.mrc").resolve() for number in self.members}
        return {number: path for number, path in paths.items() if path.exists()}

    def state_rows(self) -> list[tuple[str, ...]]:
        """Name, particles, and resolution to which structure and map agree (FSC 0.5), of each state."""
        rows: list[tuple[str, ...]] = []
        for number, members in self.members.items():
            agree = "no map"
            if number in self.maps:
                volume = read_map(self.maps[number])
                agree = f"{self._agreement_A(volume, self.states[number]):.1f}"
            rows.append((f"state {number}", str(len(members)), agree))
        return rows

    def _agreement_A(self, volume: VolumeMap, centres: NDArray[np.float64]) -> float:
        _, electrons, _ = residue_centres(self.structure)
        pixel = volume.pixel_size_A
        rendered = gaussian_map(
            volume.box_size, torch.from_numpy(centres / pixel).float(), torch.from_numpy(electrons).float(),
            torch.from_numpy(residue_widths(self.structure) / pixel).float(),
        )  # fmt: skip
        curve = fsc(rendered, torch.from_numpy(volume.data))
        return resolution_A(curve, pixel, volume.box_size, HALF)

    def chemistry(self, models: int) -> dict[str, Stereochemistry]:
        """Stereochemistry of the given structure, of the worst model of the ensemble, and of each state, by name."""
        chemistry = Chemistry.of(self.structure)

        def of(centres: NDArray[np.float64]) -> list[Stereochemistry]:
            return [stereochemistry(self.structure, one, chemistry) for one in carried_atoms(self.structure, centres)]

        worst = max(of(along_motion(self.motion, models)), key=lambda one: (one.broken, one.bond_A))
        given = stereochemistry(self.structure, self.structure.positions, chemistry)
        states = {f"state {number}": of(centres[None])[0] for number, centres in self.states.items()}
        return {"given structure": given, "ensemble, worst model": worst, **states}

    def sentence(self) -> str:
        """What was found, in one sentence."""
        return self.evidence.sentence(self.held_out)
