"""An External job, driven through cryosparc-tools 5, with every upload and every save verified.

The client repeats a request whose connection broke, but with a stream that is already used up: nothing, or only the
rest of a file, arrives, and success is reported. So what was sent is compared with what is there, and sent again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from cryosparc_jobs.errors import MasterError, asking, cut
from cryosparc_jobs.slots import Slot, SourceOutput

ATTEMPTS = 3
# The client puts the sentence into an address, whose length is limited to 64 KiB: this is at most 9 bytes a character.
LONGEST_ERROR = 1500
LONGEST_EVENT = 20_000


class ExternalJob:
    """An External job, driven through cryosparc-tools 5.

    Attributes
    ----------
    project, uid : str
    trust_shared_files : bool
        Verify an upload by the size of the file where the job's directory is visible here; else by downloading it.
    """

    def __init__(self, cs: Any, job: Any) -> None:
        self._cs = cs
        self._job = job
        self.project: str = job.project_uid
        self.uid: str = job.uid
        self.trust_shared_files = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.project}-{self.uid})"

    @functools.cached_property
    def directory(self) -> Path:
        """The job's directory as the master names it; it need not be visible here."""
        with self._asking("say where its directory is"):
            return Path(self._directory())

    def status(self) -> str:
        """Ask the master for the job's status."""
        with self._asking("tell its status"):
            return str(self._status())

    def start(self) -> None:
        """Mark the job as running."""
        with self._asking("start"):
            self._job.start("running")

    def complete(self) -> None:
        """Mark the job as completed."""
        with self._asking("be marked as completed"):
            self._job.stop()

    def fail(self, sentence: str) -> None:
        """Mark the job as failed, with a sentence that is cut to a safe length."""
        # An empty error would mark the job as completed.
        text = cut(" ".join(sentence.split()), LONGEST_ERROR) or "the job failed"
        with self._asking("be marked as failed"):
            self._fail(text)

    def connect(self, name: str, source: SourceOutput, slots: Sequence[Slot]) -> None:
        """Add an input with explicit slots and connect a parent's output to it."""
        with self._asking(f"connect {source.job_uid} {source.name}"):
            self._job.connect(name, source.job_uid, source.name, slots=[self._input_slot(slot) for slot in slots])

    def load_input(self, name: str, slots: Sequence[str]) -> Any:
        """Return the connected rows as a ``cryosparc.dataset.Dataset``."""
        with self._asking(f"load its input {name}"):
            return self._job.load_input(name, slots=list(slots))

    def add_output(
        self, kind: str, name: str, slots: Sequence[Slot], passthrough: str | None = None, title: str = ""
    ) -> None:
        """Declare an output.

        Parameters
        ----------
        kind : str
            CryoSPARC's type of the output: ``particle``, ``volume``, ``mask``.
        name : str
        slots : sequence of Slot
            What we fill.
        passthrough : str, optional
            Input from which all other slots are handed on.
        title : str, optional
        """
        with self._asking(f"add the output {name}"):
            self._job.add_output(
                kind, name, slots=[self._output_slot(slot) for slot in slots], passthrough=passthrough,
                title=title or name,
            )  # fmt: skip

    def allocate(self, name: str, uids: Any) -> Any:
        """Return an empty Dataset for an output, with the columns that the master wants and these uids.

        ``uids`` is a count, or an array of uint64.
        """
        with self._asking(f"describe its output {name}"):
            return self._job.alloc_output(name, uids)

    def save_output(self, name: str, dataset: Any) -> None:
        """Save the rows of an output, and see that they are there.

        Raises
        ------
        MasterError
            When the master refuses them, or does not keep them in three attempts.
        """
        refusal: MasterError | None = None
        for _ in range(ATTEMPTS):
            refusal = None
            try:
                with self._asking(f"save its output {name}"):
                    self._job.save_output(name, dataset)
                with self._asking(f"load back its output {name}"):
                    kept = self._load_back(name, sorted(dataset.prefixes()))
                if _same_rows(dataset, kept):
                    return
            except MasterError as error:  # also what becomes of a request that was repeated without its rows
                refusal = error
        if refusal is not None:
            raise refusal
        raise MasterError(
            f"CryoSPARC did not keep the {len(dataset)} rows of output {name} of job {self.uid} in {ATTEMPTS} attempts "
            f"(it holds {len(kept)}): the connection to it is not reliable."
        )

    def upload(self, source: Path, target: str) -> str:
        """Upload a file into the job's directory, and see that all of it arrived.

        Parameters
        ----------
        source : Path
        target : str
            Path in the job's directory.

        Returns
        -------
        str
            Path relative to the project, for ``path`` columns.

        Raises
        ------
        MasterError
            When the master refuses it, or does not keep it in three attempts.
        OSError
            When ``source`` cannot be read.
        """
        folder = str(PurePosixPath(target).parent)
        if folder != ".":
            with self._asking(f"make the folder {folder}"):
                self._job.mkdir(folder, parents=True, exist_ok=True)
        refusal: MasterError | None = None
        for _ in range(ATTEMPTS):
            refusal = None
            with open(source, "rb") as file:
                try:
                    # Our own job, our own names: a part that an earlier attempt left is overwritten.
                    with self._asking(f"take the file {target}"):
                        self._job.upload(target, file, overwrite=True)
                except MasterError as error:
                    refusal = error
            if refusal is None and self._arrived(source, target):
                return f"{self.uid}/{target}"
        if refusal is not None:
            raise refusal
        raise MasterError(
            f"The file {target} of job {self.uid} did not arrive whole at CryoSPARC ({source.stat().st_size} bytes) in "
            f"{ATTEMPTS} attempts: the connection to it is not reliable."
        )

    def log(self, text: str, level: str = "text", name: str = "") -> None:
        """Add to the event log; with ``name``, replace the event of that name."""
        with self._asking("log"):
            self._log(cut(text, LONGEST_EVENT), level, name)

    def checkpoint(self) -> None:
        """Add a checkpoint to the event log; named events begin anew."""
        with self._asking("log a checkpoint"):
            self._job.log_checkpoint()

    def plot(self, image: Path, text: str) -> None:
        """Show an image file (png, jpg, gif, svg, pdf) in the event log."""
        kind = image.suffix[1:].lower()
        self._verified_asset(image, text, "show a plot", lambda file: self._job.log_plot(file, text, formats=[kind]))

    def set_output_image(self, name: str, image: Path) -> None:
        """Give an output its picture (a png), where this version of CryoSPARC can."""
        if hasattr(self._job, "set_output_image"):
            self._verified_asset(image, name, "set an image", lambda file: self._job.set_output_image(name, file))

    def set_tile_image(self, image: Path) -> None:
        """Give the job's card its picture (a png), where this version of CryoSPARC can."""
        if hasattr(self._job, "set_tile_image"):
            self._verified_asset(image, "tile0", "set its card", self._job.set_tile_image)

    # What the versions do differently.

    def _directory(self) -> str:
        return str(self._job.dir)

    def _status(self) -> str:
        # Not through the controller: this is also called from the thread that watches.
        return str(self._cs.api.jobs.get_status(self.project, self.uid))

    def _fail(self, text: str) -> None:
        self._job.stop(error=text)

    def _log(self, text: str, level: str, name: str) -> None:
        self._job.log(text, level=level, name=name or None)

    def _assets(self) -> list[tuple[str, int]]:
        return [(one.filename, one.length) for one in self._job.list_assets()]

    def _load_back(self, name: str, slots: list[str]) -> Any:
        return self._job.load_output(name, slots=slots)

    @staticmethod
    def _input_slot(slot: Slot) -> dict[str, Any]:
        return {"name": slot.name, "dtype": slot.dtype or slot.name, "required": slot.required}

    @staticmethod
    def _output_slot(slot: Slot) -> dict[str, Any]:
        return {"name": slot.name, "dtype": slot.dtype or slot.name}

    # Inside.

    def _asking(self, what: str) -> contextlib.AbstractContextManager[None]:
        return asking(what, f"Job {self.project}-{self.uid}")

    def _arrived(self, source: Path, target: str) -> bool:
        size = source.stat().st_size
        shared = self.directory / target
        # A mismatch may be the delay of a network file system.
        if self.trust_shared_files and shared.is_file() and shared.stat().st_size == size:
            return True
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            with self._asking(f"give back the file {target}"):
                self._job.download_file(target, copy)
            return copy.stat().st_size == size and _checksum(copy) == _checksum(source)

    def _verified_asset(self, image: Path, name: str, what: str, send: Callable[[IO[bytes]], object]) -> None:
        """Send an image until the newest asset of its name has its size."""
        size, filename = image.stat().st_size, f"{name}{image.suffix.lower()}"
        for _ in range(ATTEMPTS):
            with open(image, "rb") as file, self._asking(what):
                send(file)
                found = [length for other, length in self._assets() if other == filename]
            if found and found[-1] == size:
                return
        raise MasterError(f"The image {image.name} did not arrive whole at CryoSPARC in {ATTEMPTS} attempts.")


def _same_rows(sent: Any, kept: Any) -> bool:
    """Whether a saved dataset came back with the same rows, in any order, in every column that was sent."""
    if len(sent) != len(kept) or not set(sent.fields()) <= set(kept.fields()):
        return False
    order, kept_order = np.argsort(sent["uid"]), np.argsort(kept["uid"])
    return all(
        np.array_equal(
            np.asarray(sent[name])[order], np.asarray(kept[name])[kept_order],
            equal_nan=np.asarray(sent[name]).dtype.kind == "f",
        )
        for name in sent.fields()
    )  # fmt: skip


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
