"""Opening the images of a particle set: build the coefficient store, continue it, or reuse it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.images.image_remarks import find_remarks, say_remarks, with_statistics
from cryodrgn_ext.images.image_statistics import COLUMNS, ImageStatistics, Status
from cryodrgn_ext.images.image_table import hash_images
from cryodrgn_ext.images.measurement import decide_data_sign, measure
from cryodrgn_ext.images.particle_images import GroupOptics, ImageBatch, ParticleImages
from cryodrgn_ext.images.pipeline import HALF_SET_SEED, Pipeline, assemble
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.images.store import (
    FLOAT16_LIMIT,
    HEADER_NAME,
    StoreHeader,
    StoreWriter,
    check_sums,
    open_store,
    read_check_sums,
    read_statistics,
    rows_in_store,
)
from cryodrgn_ext.metadata.half_sets import half_sets_for_copies
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.progress import Monitor, SilentMonitor

__all__ = ["GroupOptics", "ImageBatch", "ParticleImages", "PreprocessSettings", "open_images"]

DEFAULT_CHUNK_BYTES = 1 << 28
#: How images are prepared, among the settings of a store. 2: background planes and outlier pixels; stores of before,
#: which do not name it, have means of the background subtracted only.
PREPARATION, PREPARATION_VERSION = "preparation", 2


def _wanted_header(pipeline: Pipeline, known: Sequence[dict[str, Any]] = ()) -> StoreHeader:
    """Header that a store for these particles and settings must have; ``known`` are stacks that may be gone."""
    settings, plane = pipeline.settings, pipeline.geometry.plane
    chosen: dict[str, Any] = {
        PREPARATION: PREPARATION_VERSION,
        "box_size": plane.box_size,
        "radius": plane.radius,
        "mask_diameter_A": settings.mask_diameter_A,
        "background_radius": settings.background_radius,
        "normalise": settings.normalise,
        "window": settings.window,
        "contrast": settings.data_sign,
        "whiten": settings.whiten,
        "storage": settings.storage,
    }
    groups = []
    for optics, group in zip(pipeline.particles.optics, pipeline.groups, strict=True):
        decisive: dict[str, Any] = {
            "name": optics.name,  # noise differs between groups that agree in everything else
            "number": optics.number,
            "box_size": group.box_size,
            "pixel_size_A": optics.pixel_size_A,
            "ctf_premultiplied": optics.ctf_premultiplied,
        }
        if any(optics.odd_zernike) or any(optics.beam_tilt_mrad):
            decisive |= {
                "odd_zernike": list(optics.odd_zernike),
                "beam_tilt_mrad": list(optics.beam_tilt_mrad),
                "mag_matrix": [list(row) for row in optics.mag_matrix],
                "voltage_kV": optics.voltage_kV,
                "cs_mm": optics.cs_mm,
            }
        groups.append(decisive)
    return StoreHeader(
        settings=chosen,
        groups=groups,
        stacks=pipeline.table.fingerprints(known),
        images_sha256=hash_images(pipeline.table),
        n_images=len(pipeline.table),
        n_coefficients=plane.n_coefficients,
        measured={},
    )


def _build(pipeline: Pipeline, header: StoreHeader, directory: Path, chunk_bytes: int, monitor: Monitor) -> StoreHeader:
    """Write what is missing of a store, in the order of the files."""
    sigma = torch.tensor(header.measured["noise_sigma"])
    shell = pipeline.geometry.plane.shell
    gains = [header.measured["contrast_sign"] * group.sign / sigma[g][shell] for g, group in enumerate(pipeline.groups)]
    for g, learnt in enumerate(zip(header.measured["background_order"], header.measured["outlier_sd"], strict=True)):
        pipeline.use_background(g, *learnt)
    writer = StoreWriter(directory, header, pipeline.table)
    try:
        chunks = pipeline.chunks(np.arange(header.images_done, header.n_images), chunk_bytes)
        loaded = _prefetched(pipeline, chunks)
        unit = len(chunks[0]) if chunks else 1
        for rows, parts in monitor.track(loaded, "Preprocessing images", header.n_images - header.images_done, unit):
            out = torch.empty(len(rows), header.n_coefficients, dtype=torch.complex64)
            found = torch.empty(len(rows), len(COLUMNS))
            sums = np.empty(len(rows), np.uint64)
            for g, position, images in parts:
                sums[position.numpy()] = check_sums(images)
                normalised, found[position] = pipeline.normalise(g, images)
                out[position] = pipeline.transform(g, normalised, gains[g])
            _leave_out_giants(out, found, header)
            writer.append(out, found, sums)
        return writer.header
    finally:
        writer.close()


def _leave_out_giants(values: Tensor, statistics: Tensor, header: StoreHeader) -> None:
    """Give up single images (B, M) whose coefficients are too large to be stored; where most are, the store refuses."""
    if header.dtype.itemsize > 2:
        return
    giant = ~(torch.view_as_real(values).flatten(1).abs().amax(1) <= FLOAT16_LIMIT)
    if 0 < int(giant.sum()) <= len(values) // 2:
        values[giant] = 0
        statistics[giant, -1] = float(Status.DESTROYED)


def _prefetched(
    pipeline: Pipeline, chunks: list[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], list[tuple[int, Tensor, Tensor]]]]:
    """Chunks with their images, the next one being read while this one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(pipeline.read, chunks[0]) if chunks else None
        for i, rows in enumerate(chunks):
            parts = pending.result() if pending is not None else []
            pending = reader.submit(pipeline.read, chunks[i + 1]) if i + 1 < len(chunks) else None
            yield rows, parts


def open_images(
    particles: ParticleSet,
    store_dir: str | Path,
    settings: PreprocessSettings | None = None,
    monitor: Monitor | None = None,
    rebuild: bool = False,
    chunk_bytes: int = DEFAULT_CHUNK_BYTES,
    without_stacks: bool = False,
) -> ParticleImages:
    """Preprocess the images of a particle set, or reuse the store that has them, and open it.

    Parameters
    ----------
    particles : ParticleSet
    store_dir : path-like
        Directory of the store. A finished one is reused when it holds these images, made in the same way from
        unchanged stacks (also for a subset of its images); an unfinished one is continued.
    settings : PreprocessSettings, optional
    monitor : Monitor, optional
    rebuild : bool
        Replace a store that does not fit, instead of refusing.
    chunk_bytes : int
        Memory for images at a time.
    without_stacks : bool
        Whether a finished store serves where stacks are gone, which were those that it was made of.

    Raises
    ------
    InputError
        When images cannot be read or used, the disk is full, or the directory holds another store.
    """
    settings = PreprocessSettings() if settings is None else settings
    monitor = SilentMonitor() if monitor is None else monitor
    directory = Path(store_dir)
    header = None if rebuild and not (directory / HEADER_NAME).exists() else StoreHeader.read(directory)
    pipeline = Pipeline(particles, _with_earlier_radius(settings, header))
    known = header.stacks if without_stacks and header is not None and header.complete else ()
    wanted = _of_earlier_version(_wanted_header(pipeline, known), header, directory, monitor)
    rows = np.arange(wanted.n_images)
    if header is not None:
        found: NDArray[np.int64] | str = rows
        if header.complete:
            found = rows_in_store(directory, header, pipeline.table, wanted)
        elif header.key != wanted.key:
            found = "it is an unfinished store of other images or settings"
        if not isinstance(found, str):
            rows = found
        else:
            if not rebuild:
                raise InputError(
                    f"the coefficient store in {directory} cannot be used: {found}; "
                    "choose another directory or delete it"
                )
            monitor.message(f"The coefficient store in {directory} is built anew: {found}.")
            header, pipeline = None, Pipeline(particles, settings)
            wanted = _wanted_header(pipeline)
    if header is None:
        measured = measure(pipeline, chunk_bytes, monitor)
        header = StoreHeader(**{**wanted.__dict__, "measured": measured})
    else:
        if header.complete:
            monitor.message(f"Reusing the preprocessed images in {directory}.")
        decide_data_sign(settings, header.measured, monitor)  # said again: it belongs into the report of this run
    if not header.complete:
        header = _build(pipeline, header, directory, chunk_bytes, monitor)
    row_of_particle = rows[pipeline.table.row_of_particle]
    source = open_store(directory, header, row_of_particle)
    sigma = torch.tensor(header.measured["noise_sigma"], dtype=torch.float64)
    power = torch.tensor(header.measured["window_power"])
    groups = [_stored_group(header, group) for group in wanted.groups]
    images = assemble(pipeline, source, sigma[groups], power[groups])
    images = replace(images, data_sign=int(header.measured["contrast_sign"]))
    statistics = read_statistics(directory, header, len(COLUMNS))
    if statistics is not None:
        facts = ImageStatistics(statistics[row_of_particle])
        images = with_statistics(images, facts)
        outlier_sd = np.array(header.measured["outlier_sd"])[groups][particles.optics_index]
        images = replace(images, remarks=tuple(find_remarks(facts, particles, outlier_sd)))
        say_remarks(images, monitor)
    sums = read_check_sums(directory, header)
    return images if sums is None else _with_copies_together(images, sums[row_of_particle], row_of_particle, monitor)


def _with_earlier_radius(settings: PreprocessSettings, header: StoreHeader | None) -> PreprocessSettings:
    """Settings that ask for what a store holds which ends a shell below Nyquist, as all of earlier versions do."""
    if header is None or settings.radius is not None:
        return settings
    box, radius = header.settings.get("box_size"), header.settings.get("radius")
    return replace(settings, radius=radius) if box and radius == box // 2 - 1 else settings


def _of_earlier_version(
    wanted: StoreHeader, header: StoreHeader | None, directory: Path, monitor: Monitor
) -> StoreHeader:
    """Header wanted of a finished store of an earlier version, which serves the job that made it to its end.

    What this job has finished was made of images prepared in that way: a mixture of both would be neither.
    """
    if header is None or not header.complete or PREPARATION in header.settings:
        return wanted
    monitor.message(
        f"The images in {directory} were preprocessed by an earlier version, without planes of the background and "
        "outlier pixels: they are used as they are; choose another output directory for new ones."
    )
    return replace(wanted, settings={name: v for name, v in wanted.settings.items() if name != PREPARATION})


def _with_copies_together(
    images: ParticleImages, sums: NDArray[np.uint64], stored: NDArray[np.int64], monitor: Monitor
) -> ParticleImages:
    """Images whose half-sets part no copies of one image; copies under other names are warned of."""
    if images.particles is None:
        return images
    if images.statistics is not None:  # empty coefficients are no copies of each other
        nothing = images.statistics.unusable
        sums = np.where(nothing, np.arange(len(sums), dtype=np.uint64), sums)
    _, first, group = np.unique(sums, return_index=True, return_inverse=True)
    group = group.reshape(-1).astype(np.int64)
    original = first[group]
    copies = np.flatnonzero(stored != stored[original])
    if not len(copies):
        return images
    row = int(copies[0])
    sentence = (
        f"Warning: {len(copies)} of {images.n} images are duplicates, pixel by pixel, of others under another name, as "
        f"{images.particles.describe_row(row)} is identical to {images.particles.describe_row(int(original[row]))}: "
        "what they show counts twice. Remove duplicates for sound resolutions"
    )
    own = images.half_set.cpu().numpy()
    choice = half_sets_for_copies(images.particles, own, group, HALF_SET_SEED)
    if choice is None:
        monitor.warn(f"{sentence}.")
        return images
    monitor.warn(f"{sentence}; as their copies were in both half-sets, these are drawn anew with copies together.")
    return replace(images, half_set=torch.from_numpy(choice))


def _stored_group(header: StoreHeader, group: dict[str, Any]) -> int:
    """Number in the store of a group of the particles; 0 for groups without particles."""
    return header.groups.index(group) if group in header.groups else 0
