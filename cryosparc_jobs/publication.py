"""Giving results to CryoSPARC so that nothing is half-saved: everything is prepared and verified before the first save.

First all outputs are declared and their rows filled in, then all files uploaded and verified, then pictures shown, and
only then, in one short phase without other work, the rows are saved, each output verified. What can fail thus fails
while the job has no results. A master that fails within the last phase leaves some outputs whole and others empty;
the job then fails with a sentence that names them, since CryoSPARC has no transaction over several outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.errors import InputError, JobAborted
from cryodrgn_ext.metadata.mrc import read_mrc_header
from cryodrgn_ext.progress import Monitor
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.lifecycle import RUNNING
from cryosparc_jobs.slots import Slot

INPUT = "particles"
# The one slot that an output of particles must fill itself: the parent's, value for value, or poses of ours.
COPIED = "alignments3D"


class Publication:
    """Outputs of a running External job, on the uids of its input ``particles``.

    Parameters
    ----------
    job : ExternalJob
        Running, with that input connected.
    rows : cryosparc.dataset.Dataset
        Its rows: uid, and at least the slots alignments3D and blob where they are copied from.
    monitor : Monitor
    """

    def __init__(self, job: ExternalJob, rows: Any, monitor: Monitor) -> None:
        self._job, self._rows, self._monitor = job, rows, monitor
        self._uploads: list[tuple[Path, str]] = []
        self._pending: list[tuple[str, Any]] = []
        self._pictures: list[Callable[[], None]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs so far."""
        return tuple(name for name, _ in self._pending)

    def add_file(self, source: Path, target: str) -> None:
        """Upload a file into the job's directory, if it is there; no output names it."""
        if source.exists():
            self._uploads.append((source, target))

    def add_particles(
        self,
        name: str,
        title: str,
        uid: NDArray[np.uint64],
        latents: NDArray[np.floating] | None = None,
        alignments: Mapping[str, NDArray[np.generic]] | None = None,
    ) -> None:
        """Declare an output of some of the parent's particles; all that is not copied is passed through.

        Parameters
        ----------
        name, title : str
        uid : ndarray
            (n,) uint64, in the order of the output.
        latents : ndarray, optional
            (n, q), in the order of ``uid``, in slots components_mode_0 .. as 3D Variability has its coordinates, where
            the master takes them.
        alignments : mapping, optional
            Fields alignments3D/... (n, ...) of poses of ours; the parent's own when there are none.

        Raises
        ------
        InputError
            When a uid is not among the connected rows.
        MasterError
            When CryoSPARC refuses something.
        """
        place = self._places(uid)
        modes = [] if latents is None else [Slot(f"components_mode_{i}", "components") for i in range(latents.shape[1])]
        try:
            self._job.add_output("particle", name, [Slot(COPIED), *modes], passthrough=INPUT, title=title)
        except MasterError as error:
            if not modes or error.transient:
                raise
            self._monitor.message(f"Note: this CryoSPARC takes no latents as components: {error}")
            self._job.add_output("particle", name, [Slot(COPIED)], passthrough=INPUT, title=title)
        dataset = self._job.allocate(name, uid)
        known = set(self._rows.fields())
        for column in dataset.fields(exclude_uid=True):
            if alignments and column.startswith(f"{COPIED}/"):
                if column in alignments:
                    dataset[column] = alignments[column]
            elif column in known:
                dataset[column] = np.asarray(self._rows[column])[place]
            elif column == f"{COPIED}/psize_A":  # without it, shifts would count pixels of no size
                dataset[column] = np.asarray(self._rows["blob/psize_A"])[place]
            elif column.startswith("components_mode_") and latents is not None:
                slot, _, field = column.partition("/")
                mode = int(slot.rpartition("_")[2])
                if field == "value":
                    dataset[column] = latents[:, mode].astype(np.float32)
                elif field == "component":
                    dataset[column] = np.full(len(place), mode, np.uint32)
        self._pending.append((name, dataset))

    def add_map(self, kind: str, name: str, title: str, files: Mapping[str, Path], stem: str) -> None:
        """Declare an output of one row of maps, and have the files uploaded.

        Parameters
        ----------
        kind : str
            ``volume`` or ``mask``.
        name, title : str
        files : mapping
            Slot to file, all with pixel sizes in their headers.
        stem : str
            What the names of the uploaded files begin with.

        Raises
        ------
        InputError
            When a file is no map.
        MasterError
            When CryoSPARC refuses something.
        """
        words = [self._job.uid, stem] if stem else [self._job.uid]
        targets = {slot: f"states/{'_'.join([*words, file.name])}" for slot, file in files.items()}
        self._job.add_output(kind, name, [Slot(slot, "blob") for slot in files], title=title)
        dataset = self._job.allocate(name, 1)
        for slot, file in files.items():
            header = read_mrc_header(file)
            dataset[f"{slot}/path"] = [f"{self._job.uid}/{targets[slot]}"]
            dataset[f"{slot}/shape"] = np.array([[header.nz, header.ny, header.nx]], np.uint32)
            dataset[f"{slot}/psize_A"] = np.array([header.pixel_size_A], np.float32)
            self._uploads.append((file, targets[slot]))
        self._pending.append((name, dataset))

    def add_plot(self, picture: Path, text: str) -> None:
        """Show a picture in the event log."""
        self._pictures.append(lambda: self._job.plot(picture, text))

    def add_tile(self, picture: Path) -> None:
        """Put a picture on the job's card."""
        self._pictures.append(lambda: self._job.set_tile_image(picture))

    def add_output_image(self, name: str, picture: Path) -> None:
        """Give an output its picture."""
        self._pictures.append(lambda: self._job.set_output_image(name, picture))

    def commit(self) -> None:
        """Upload everything, then save everything.

        Raises
        ------
        JobAborted
            When the job no longer runs.
        MasterError
            When CryoSPARC refuses something or does not keep it; the sentence names the outputs that are complete.
        """
        self._monitor.message(f"Uploading {len(self._uploads)} files")
        for source, target in self._monitor.track(self._uploads, "Uploading", total=len(self._uploads)):
            self._job.upload(source, target)
        self._show()
        self._monitor.poll()
        status = self._job.status()
        if status not in RUNNING:
            raise JobAborted(f"the job is {status} in CryoSPARC")
        self._monitor.message(f"Saving {len(self._pending)} outputs")
        self._save()

    def _save(self) -> None:
        """Save all outputs, with nothing else in between: not even a look whether the user wants to stop."""
        complete: list[str] = []
        try:
            for name, dataset in self._pending:
                self._job.save_output(name, dataset)
                complete.append(name)
        except BaseException as error:
            if not complete:
                raise
            sentence = self._partial(complete)
            if isinstance(error, MasterError):
                raise MasterError(f"{error} {sentence}", error.transient) from error
            try:
                self._job.log(sentence, level="warning")
            except MasterError:
                self._monitor.message(sentence)
            raise

    def _partial(self, complete: list[str]) -> str:
        broken, *empty = [name for name, _ in self._pending if name not in complete]
        rest = f"; {', '.join(empty)} were not begun" if empty else ""
        return (
            f"Complete are {', '.join(complete)}; do not use {broken}{rest}. A new run in the same result directory "
            "saves all of them without computing anything again."
        )

    def _show(self) -> None:
        """Plots and thumbnails; they are no reason for a finished job to fail."""
        try:
            for show in self._pictures:
                show()
        except MasterError as error:
            self._monitor.message(f"Note: some pictures are missing in CryoSPARC: {error}")

    def _places(self, uid: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows (n,) of particles in the connected input; joined by uid, never by order."""
        ours = np.asarray(self._rows["uid"], np.uint64)
        order = np.argsort(ours)
        place = order[np.minimum(np.searchsorted(ours, uid, sorter=order), len(ours) - 1)]
        missing = np.flatnonzero(ours[place] != uid)
        if len(missing):
            raise InputError(
                f"{len(missing)} of {len(uid)} particles of the result are not among those that are connected, as uid "
                f"{uid[missing[0]]}: the result is of other particles."
            )
        return place
