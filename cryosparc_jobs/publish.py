"""The results of a train job as outputs of an External job: on the parent's uids, files before the rows that name them.

Per state: particles (the parent's own rows, the rest passed through), a volume with both half-maps, and a mask.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.layout import Layout
from cryodrgn_ext.jobs.pictures import Pictures, draw_pictures
from cryodrgn_ext.jobs.record import require_record
from cryodrgn_ext.jobs.result_tables import read_latent_table, read_state_table
from cryodrgn_ext.progress import Monitor
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.slots import Slot

INPUT = "particles"
# The one slot that an output must fill itself; it is the parent's, value for value.
COPIED = "alignments3D"
VOLUME_FILES = {"map": "map.mrc", "map_half_A": "half1.mrc", "map_half_B": "half2.mrc"}
MASK_FILES = {"mask": "mask.mrc"}
EXTRA_FILES = ("report.html", "job.yaml", "latents.npz", "states.npz")


def publish_states(job: ExternalJob, rows: Any, result: Path, monitor: Monitor) -> None:
    """Give the states of a finished train job back to CryoSPARC.

    All outputs are declared and all files uploaded before the first row is saved, so that what can fail fails while
    nothing is there yet.

    Parameters
    ----------
    job : ExternalJob
        Running, with the input ``particles`` connected.
    rows : cryosparc.dataset.Dataset
        The particles that the train job was given, in that order.
    result : Path
        Its result directory.
    monitor : Monitor

    Raises
    ------
    InputError
        When the result is not of these particles.
    MasterError
        When CryoSPARC refuses something, or does not keep it.
    """
    layout = Layout(result)
    results = require_record(result, "train")["results"]
    table = read_state_table(layout.states_table)
    _check_rows(layout, rows, table.n)
    pending: list[tuple[str, Any]] = []
    uploads: list[tuple[Path, str]] = [(result / name, f"{job.uid}_{name}") for name in EXTRA_FILES]
    for number in range(len(table.center_index)):
        title = f"State {number:02d}"
        particles = f"particles_state_{number:02d}"
        job.add_output("particle", particles, [Slot(COPIED)], passthrough=INPUT, title=f"{title}: particles")
        pending.append((particles, _copied_rows(job, particles, rows, table.label == number)))
        for name, kind, files in ((f"volume_state_{number:02d}", "volume", VOLUME_FILES),
                                  (f"mask_state_{number:02d}", "mask", MASK_FILES)):  # fmt: skip
            targets = {slot: f"states/{job.uid}_state_{number:02d}_{file}" for slot, file in files.items()}
            uploads += [(layout.state(number) / files[slot], target) for slot, target in targets.items()]
            job.add_output(kind, name, [Slot(slot, "blob") for slot in files], title=f"{title}: {kind}")
            pending.append((name, _map_row(job, name, targets, results)))
    monitor.message(f"Uploading {len(uploads)} files")
    for source, target in monitor.track(uploads, "Uploading", total=len(uploads)):
        if source.exists():  # a homogeneous result has no latents
            job.upload(source, target)
    for name, dataset in monitor.track(pending, "Saving outputs", total=len(pending)):
        job.save_output(name, dataset)
    monitor.poll()
    _show(job, draw_pictures(result, result / "pictures"), monitor)


def _check_rows(layout: Layout, rows: Any, n: int) -> None:
    if n != len(rows):
        raise InputError(f"{layout.states_table} is of {n} particles, but {len(rows)} are connected.")
    if layout.latents.exists():
        uid = read_latent_table(layout.latents).uid
        wrong = np.flatnonzero(uid != np.asarray(rows["uid"]))
        if len(wrong):
            raise InputError(
                f"{layout.latents}: row {wrong[0] + 1} is of particle {uid[wrong[0]]}, but the connected one is "
                f"{rows['uid'][wrong[0]]}: the result is of other particles."
            )


def _copied_rows(job: ExternalJob, name: str, rows: Any, chosen: NDArray[np.bool_]) -> Any:
    """Rows of an output with the parent's uids and values, in the columns that the master wants."""
    dataset = job.allocate(name, np.asarray(rows["uid"])[chosen])
    known = set(rows.fields())
    for column in dataset.fields(exclude_uid=True):
        if column in known:
            dataset[column] = np.asarray(rows[column])[chosen]
        elif column == "alignments3D/psize_A":  # without it, shifts would count pixels of no size
            dataset[column] = np.asarray(rows["blob/psize_A"])[chosen]
    return dataset


def _map_row(job: ExternalJob, name: str, targets: dict[str, str], results: dict[str, Any]) -> Any:
    dataset = job.allocate(name, 1)
    box = int(results["box"])
    for slot, target in targets.items():
        dataset[f"{slot}/path"] = [f"{job.uid}/{target}"]
        dataset[f"{slot}/shape"] = np.full((1, 3), box, np.uint32)
        dataset[f"{slot}/psize_A"] = np.array([results["pixel_size_A"]], np.float32)
    return dataset


def _show(job: ExternalJob, pictures: Pictures, monitor: Monitor) -> None:
    """Plots and thumbnails; they are no reason for a finished job to fail."""
    try:
        if pictures.latents is not None:
            job.plot(pictures.latents, "Particles in latent space, by state")
        job.plot(pictures.states, "Central slices of the states")
        job.set_tile_image(pictures.states)
        for number, picture in enumerate(pictures.state):
            for kind in ("particles", "volume", "mask"):
                job.set_output_image(f"{kind}_state_{number:02d}", picture)
    except MasterError as error:
        monitor.message(f"Note: some pictures are missing in CryoSPARC: {error}")
