"""Where things lie in a result directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.results.record import RECORD_NAME


@dataclass(frozen=True)
class Layout:
    """Paths of a job's results, relative to wherever ``root`` is."""

    root: Path

    @property
    def particles(self) -> Path:
        """All particles: the STAR file with latents and states, or the .cs of particles from CryoSPARC."""
        star, cs = self.root / "particles.star", self.root / "particles.cs"
        return cs if cs.exists() and not star.exists() else star

    @property
    def latents(self) -> Path:
        """``z`` (N, q) in the order of the input rows, ``image_name``, ``uid``, ``row_id``, ``z_cov`` where defined."""
        return self.root / "latents.npz"

    @property
    def states_table(self) -> Path:
        """``label`` (N,) of each particle, and ``center_index`` (K,)."""
        return self.root / "states.npz"

    @property
    def model(self) -> Path:
        """The engine's saved model."""
        return self.root / "model"

    @property
    def volumes(self) -> Path:
        """Decoded volumes vol_000.mrc, ... and their latents z_values.txt."""
        return self.root / "volumes"

    @property
    def states(self) -> Path:
        """One folder per state."""
        return self.root / "states"

    @property
    def consensus(self) -> Path:
        """Map, half-maps, mask and FSC of all particles."""
        return self.root / "consensus"

    @property
    def image_remarks(self) -> Path:
        """Images that were repaired, left out, or are unlike others, with reasons; absent where there are none."""
        return self.root / "image_remarks.star"

    @property
    def empty_images(self) -> Path:
        """Images that probably show no particle, with their scales; absent where there are none."""
        return self.root / "empty_images.star"

    @property
    def checkpoint(self) -> Path:
        """Files that a Continue needs; may be deleted when the job is finished."""
        return self.root / "checkpoint"

    @property
    def report(self) -> Path:
        """Self-contained web page."""
        return self.root / "report.html"

    @property
    def logfile(self) -> Path:
        """The report as RELION shows it."""
        return self.root / "logfile.pdf"

    def state(self, number: int) -> Path:
        """Folder of state ``number`` (from 0, as clusters and volumes are numbered)."""
        return self.states / f"state{number:02d}"


def find_result_directory(path: Path) -> Path:
    """Find the result directory that ``path`` (itself, or a file or folder in it) belongs to.

    Raises
    ------
    InputError
        When neither it nor a folder above it, up to three levels, has a job.yaml.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    candidates = (
        [path, *list(path.absolute().parents)[:3]] if not path.is_dir() else [path, *path.absolute().parents[:2]]
    )
    for candidate in candidates:
        if candidate.is_dir() and (candidate / RECORD_NAME).is_file():
            return candidate
    raise InputError(
        f"{path} does not belong to a result directory of a job (no {RECORD_NAME} in it or above): give the "
        "particles.star that the job returned, or its directory."
    )
