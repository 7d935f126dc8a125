"""Results of a job, described so that every suite can offer, show and pass them on without knowing the job.

A job lists its outputs: particles, maps (with the half-maps and the mask that belong to them) and masks, each with a
name and a title, and names the pictures that show them. An entry point derives from that what its suite knows: RELION
its nodes (:attr:`JobResult.files`), CryoSPARC its outputs of rows. Pictures are drawn only when somebody shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the registry, which names this type, is read where nothing else is installed
    import numpy as np
    from numpy.typing import NDArray

#: Name of the output that holds every particle of the job, where others hold some of them.
ALL = "all"


class OutputKind(Enum):
    """The kinds of files that suites know."""

    PARTICLES = "particles"
    MAP = "map"
    MASK = "mask"
    HALF_MAP = "half-map"
    PDF = "pdf log"


class Role(Enum):
    """Part that an output plays in its job."""

    RESULT = "result"  # what the job is for: every suite offers it to further jobs
    REST = "rest"  # the particles that are in none of the results
    EXTRA = "extra"  # shown beside the results, for suites that offer single files: decoded volumes, the consensus


@dataclass(frozen=True)
class OutputFile:
    """One file of an output."""

    path: Path
    kind: OutputKind


@dataclass(frozen=True)
class Picture:
    """A picture in png form, drawn when it is first shown.

    Attributes
    ----------
    path : Path
        The file.
    caption : str
    draw : callable
        ``draw(path)`` writes the file; from :mod:`cryodrgn_ext.report`.
    """

    path: Path
    caption: str
    draw: Callable[[Path], object]

    @cached_property
    def file(self) -> Path:
        """The drawn file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.draw(self.path)
        return self.path


@dataclass(frozen=True, kw_only=True)
class ParticleOutput:
    """Particles of the input, returned.

    Attributes
    ----------
    name : str
        Unique among the particles of a job, as ``state_00``; empty when it returns only these.
    title : str
        For people.
    uid : ndarray
        (n,) uint64 of the particles, in the order of the file; see :attr:`ParticleSet.uid`.
    path : Path or None
        The file; None when these particles were not written.
    coordinates : ndarray or None
        (n, q) latents or volume components of the particles.
    columns : mapping
        What the job found or changed of the particles, by CryoSPARC's names, as ``alignments3D/pose``, each (n, ...).
    picture : Picture or None
    role : Role
    """

    uid: NDArray[np.uint64]
    name: str = ""
    title: str = "Particles"
    path: Path | None = None
    coordinates: NDArray[np.floating] | None = None
    columns: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    picture: Picture | None = None
    role: Role = Role.RESULT

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """The table of particles, if there is one."""
        return () if self.path is None else (OutputFile(self.path, OutputKind.PARTICLES),)


@dataclass(frozen=True, kw_only=True)
class MapOutput:
    """A map, with what belongs to it.

    Attributes
    ----------
    path : Path
        The map; its header has the pixel size, as those of the half-maps and the mask.
    name, title : str
        As of :class:`ParticleOutput`; the map of particles has their name.
    half_maps : tuple of Path
        Two unfiltered half-maps, or none.
    mask : Path or None
    reference : Path or None
        The map in the sign of the particles in their images, where that is another; for suites that know no sign.
    picture : Picture or None
    role : Role
    """

    path: Path
    name: str = ""
    title: str = "Map"
    half_maps: tuple[Path, Path] | tuple[()] = ()
    mask: Path | None = None
    reference: Path | None = None
    picture: Picture | None = None
    role: Role = Role.RESULT

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """The map in the sign of the particles, one half-map (suites find the other by its name), and the mask."""
        files = [OutputFile(self.path if self.reference is None else self.reference, OutputKind.MAP)]
        files += [OutputFile(path, OutputKind.HALF_MAP) for path in self.half_maps[:1]]
        if self.mask is not None:
            files.append(OutputFile(self.mask, OutputKind.MASK))
        return tuple(files)


@dataclass(frozen=True, kw_only=True)
class MaskOutput:
    """A mask that belongs to no single map; see :class:`MapOutput`."""

    path: Path
    name: str = ""
    title: str = "Mask"
    picture: Picture | None = None
    role: Role = Role.RESULT

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """The mask."""
        return (OutputFile(self.path, OutputKind.MASK),)


Output = ParticleOutput | MapOutput | MaskOutput


@dataclass(frozen=True)
class JobResult:
    """Results of a finished job, and which of them a suite should offer as inputs of further jobs.

    Attributes
    ----------
    directory : Path
        The result directory.
    outputs : tuple of Output
        In the order in which they should be shown.
    log : Path or None
        The report as PDF.
    plots : tuple of Picture
        For the log of a suite, in this order.
    card : Picture or None
        The one picture that stands for the job.
    keep : tuple of Path
        Further files that a suite with a store of its own should keep: the report, the record, tables.
    """

    directory: Path
    outputs: tuple[Output, ...] = ()
    log: Path | None = None
    plots: tuple[Picture, ...] = ()
    card: Picture | None = None
    keep: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[OutputFile, ...]:
        """All files of outputs that exist, in order; the log comes last."""
        files = [file for output in self.outputs for file in output.files]
        if self.log is not None:
            files.append(OutputFile(self.log, OutputKind.PDF))
        return tuple(file for file in files if file.path.is_file())
