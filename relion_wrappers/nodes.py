"""RELION_OUTPUT_NODES.star in the form of the RELION version that runs the job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from cryodrgn_ext.durable_files import atomic_write_text
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.own_tables import NEW_VERSION, OLD_VERSION, own_star_text
from cryodrgn_ext.workflow.job_result import OutputFile, OutputKind

NODES_NAME = "RELION_OUTPUT_NODES.star"
PIPELINE_NAME = "default_pipeline.star"  # in every project directory


class RelionVersion(Enum):
    """The three forms in which RELION has described nodes."""

    V3_1 = "3.1"
    V4_0 = "4.0"
    V5 = "5"


# RELION 3.1 numbers its node types (pipeline_jobs.h); 4.0 and 5 name them, and renamed particles in between.
NODE_NUMBERS = {
    OutputKind.PARTICLES: 3,
    OutputKind.MAP: 6,
    OutputKind.MASK: 7,
    OutputKind.HALF_MAP: 10,
    OutputKind.PDF: 13,
}
NODE_LABELS = {
    OutputKind.PARTICLES: "ParticlesData.star.relion",
    OutputKind.MAP: "DensityMap.mrc",
    OutputKind.MASK: "Mask3D.mrc",
    OutputKind.HALF_MAP: "DensityMap.mrc.halfmap",
    OutputKind.PDF: "LogFile.pdf.relion",
}
NODE_KINDS: dict[RelionVersion, Mapping[OutputKind, int | str]] = {
    RelionVersion.V3_1: NODE_NUMBERS,
    RelionVersion.V4_0: NODE_LABELS,
    RelionVersion.V5: {**NODE_LABELS, OutputKind.PARTICLES: "ParticleGroupMetadata.star.relion"},
}


def running_version(directory: Path) -> RelionVersion:
    """Tell which RELION started the job, by the job.star that it wrote into the job's directory.

    Without a job.star (the wrapper was started by hand) the newest form is written.

    Raises
    ------
    InputError
        When job.star cannot be read as text.
    """
    path = directory / "job.star"
    if not path.exists():
        return RelionVersion.V5
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file, although RELION writes it as one.") from None
    if re.search(r"^_rlnJobType\s", text, re.MULTILINE):
        return RelionVersion.V3_1
    stamp = re.search(r"^#\s*version\s+(\d+)", text, re.MULTILINE)
    if stamp is not None and int(stamp.group(1)) < 50000:
        return RelionVersion.V4_0
    return RelionVersion.V5


def write_nodes(directory: Path, files: Sequence[OutputFile], version: RelionVersion | None = None) -> list[str]:
    """Declare the outputs that exist.

    Parameters
    ----------
    directory : Path
        The job's directory, as RELION passed it (relative to the project directory, which is the current one), or
        absolute.
    files : sequence of OutputFile
        What the job says that it made; those that are missing are not declared.
    version : RelionVersion, optional
        The form; read off the job's directory when omitted.

    Returns
    -------
    list of str
        Node names declared, relative to the project directory.
    """
    version = running_version(directory) if version is None else version
    project = _project_directory(directory)
    names, kinds = [], []
    for file in files:
        if not file.path.is_file():
            continue
        names.append(_project_name(file.path, project))
        kinds.append(NODE_KINDS[version][file.kind])
    column = "rlnPipeLineNodeType" if version is RelionVersion.V3_1 else "rlnPipeLineNodeTypeLabel"
    table = {"output_nodes": {"rlnPipeLineNodeName": names, column: kinds}}
    stamp = NEW_VERSION if version is RelionVersion.V5 else OLD_VERSION
    atomic_write_text(directory / NODES_NAME, own_star_text(table, stamp))
    return names


def _project_directory(directory: Path) -> Path:
    """Return RELION's project directory: the working directory, or that of a job that was started from elsewhere."""
    above = directory.parents if directory.is_absolute() else ()
    return next((one for one in above if (one / PIPELINE_NAME).is_file()), Path.cwd())


def _project_name(path: Path, project: Path) -> str:
    """Return a path relative to the project directory; as it is where it lies elsewhere.

    ``..`` stays in it: the system follows links before it goes upward.
    """
    return str(path.relative_to(project) if path.is_absolute() and path.is_relative_to(project) else path)
