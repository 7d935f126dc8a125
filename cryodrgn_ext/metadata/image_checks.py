"""Whether the images that a set of particles refers to are there and as the metadata say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.image_files import is_missing
from cryodrgn_ext.metadata.mrc import MrcHeader, read_stack_header
from cryodrgn_ext.metadata.particle_set import ParticleSet


def check_images(particles: ParticleSet) -> None:
    """Check that every image exists and has the size that the metadata say; reads one header per stack.

    Raises
    ------
    InputError
        For stacks that are missing, unreadable, no MRC stacks, truncated, shorter than their indices, not square,
        or of another box than rlnImageSize; the message names the file and the first row concerned.
    """
    if particles.n == 0:
        return
    order = np.argsort(particles.stack_id, kind="stable")
    stacks, first = np.unique(particles.stack_id[order], return_index=True)
    groups = np.split(order, first[1:])
    missing = [number for number, stack in enumerate(stacks) if is_missing(particles.stack_paths[stack])]
    if missing:
        row = int(groups[missing[0]][0])
        raise InputError(
            f"{particles.describe_row(row)}: the stack {particles.stack_paths[stacks[missing[0]]]} does not exist "
            f"({len(missing)} of {len(stacks)} stacks are missing); image references are relative to the project "
            f"directory, here {particles.project_dir}: give the right one with --project"
        )
    for stack, rows in zip(stacks.tolist(), groups, strict=True):
        header = read_stack_header(particles.stack_paths[stack])
        _check_stack(particles, particles.stack_paths[stack], header, rows)


def check_present_images(particles: ParticleSet) -> tuple[str, ...]:
    """Check the images whose stacks are there, for jobs that hand particles on without reading their images.

    Returns
    -------
    tuple of str
        Which stacks cannot be read as they are ("Warning: ...") and which are not there, one sentence each.

    Raises
    ------
    InputError
        For indices beyond the end of a stack and images of another box than the metadata say: whatever reads the
        particles next would take other images, or none.
    """
    order = np.argsort(particles.stack_id, kind="stable")
    stacks, first = np.unique(particles.stack_id[order], return_index=True)
    unread: list[str] = []
    missing: list[str] = []
    for stack, rows in zip(stacks.tolist(), np.split(order, first[1:]), strict=True):
        path = particles.stack_paths[stack]
        if is_missing(path):
            missing.append(particles.stack_names[stack])
            continue
        try:
            header = read_stack_header(path)
        except InputError as error:
            unread.append(str(error))
            continue
        _check_stack(particles, path, header, rows, complete=False)
        if header.n_complete < header.nz:
            unread.append(f"{path} is truncated: of {header.nz} images it holds {header.n_complete}")
    sentences = []
    if unread:
        sentences.append(
            f"Warning: {len(unread)} of {len(stacks)} stacks cannot be read as they are, the first being: {unread[0]}."
        )
    if missing:
        sentences.append(
            f"{len(missing)} of {len(stacks)} stacks, such as {missing[0]}, are not found from "
            f"{particles.project_dir}: their names go along as they are"
        )
    return tuple(sentences)


def _check_stack(
    particles: ParticleSet, path: Path, header: MrcHeader, rows: npt.NDArray[np.intp], *, complete: bool = True
) -> None:
    last = int(rows[np.argmax(particles.stack_index[rows])])
    wanted = int(particles.stack_index[last]) + 1
    if wanted > header.nz:
        raise InputError(
            f"{particles.describe_row(last)}: asks for image {wanted}, but {path} holds {header.nz} images: "
            "it is not the stack that these particles were written for; give the project directory of the right one "
            "with --project, or take these rows out"
        )
    if complete and wanted > header.n_complete:
        raise InputError(
            f"{particles.describe_row(last)}: {path} is truncated: its header promises {header.nz} images, the "
            f"file ends after {header.n_complete}"
        )
    _, first = np.unique(particles.optics_index[rows], return_index=True)
    for row in rows[first].tolist():
        group = particles.optics[particles.optics_index[row]]
        if group.box_size is not None and group.box_size != header.nx:
            raise InputError(
                f"{particles.describe_row(row)}: {path} has images of {header.nx} pixels, but its optics group "
                f"{group.name} has {group.box_size}: these are not the images that the metadata describe"
            )
