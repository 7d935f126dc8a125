"""The skeleton of every job with a result directory: check, stages, notes, record, report of the end.

A job is a class that says what is its own, in three parts::

    class InvertRun(JobRun[InvertSettings, InvertInputs]):
        name = "invert"

        @classmethod
        def check(cls, settings: InvertSettings, monitor: Monitor) -> InvertInputs:
            # Reads and refuses; writes nothing. Whatever cannot work is said here, before the directory is made.
            particles = read_particles(settings.in_parts)
            return InvertInputs(record={"in_parts": fingerprint_particles(...)}, particles=particles)

        def work(self) -> tuple[dict[str, Any], JobResult]:
            # Stages, each finished on disk before the next begins; a stage that is found finished is not done again.
            key = fingerprint(self.inputs.record["in_parts"]["sha256"], self.settings.box)
            self.stage("map", key, "Inverting the map", self._invert, self.layout.root / "map.mrc")
            return {"box": 64}, JobResult(self.layout.root, outputs, self.layout.logfile)

and a function that starts it, which is what the registry (:mod:`cryodrgn_ext.jobs.registry`) names::

    def invert(settings: InvertSettings, monitor: Monitor) -> JobResult:
        return InvertRun.start(settings, monitor)

The rest is written here, once: threads; the refusal of directories of other jobs; the comparison with an earlier run
in the same directory; unfinished files of that run; the journal of stages with the warnings of each; job.yaml while the
job runs and when it is finished; and that images which cannot be used leave nothing behind.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from cryodrgn_ext.durable_files import make_output_directory
from cryodrgn_ext.engines.base import Heterogeneity
from cryodrgn_ext.engines.held_out import weighed
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.fourier.block_sizes import told
from cryodrgn_ext.images.dataset import ParticleImages, open_images
from cryodrgn_ext.images.image_remarks import write_remarks
from cryodrgn_ext.images.preprocessing import PreprocessSettings
from cryodrgn_ext.metadata.particles import ParticleSet
from cryodrgn_ext.options.result_settings import ResultSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.run_facts import RunFacts
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.maps_for_relion import sign_sentences, write_maps_for_relion
from cryodrgn_ext.results.record import refuse_foreign_files, refuse_other_results, write_record
from cryodrgn_ext.workflow.compiler_cache import have_compiler_cache
from cryodrgn_ext.workflow.continuation import Continuation, check_continuation
from cryodrgn_ext.workflow.failure import recorded_failure
from cryodrgn_ext.workflow.job_result import JobResult
from cryodrgn_ext.workflow.stages import Stages
from cryodrgn_ext.workflow.threads import use_threads
from cryodrgn_ext.workflow.unfinished_files import remove_unfinished


@dataclass(frozen=True, kw_only=True)
class CheckedInputs:
    """Base of what a check returns: everything that the work starts from, read and found usable.

    Attributes
    ----------
    record : mapping
        For job.yaml: fingerprints of the input files by option, and plain values.
    continuation : Continuation or None
        What may not change between a run and its Continue; None where stages with other keys are simply done again.
    """

    record: Mapping[str, Any]
    continuation: Continuation | None = None

    def sha256(self, name: str) -> str | None:
        """Fingerprint of the file that an option gave; None where it gave none."""
        found: str | None = self.record.get(name, {}).get("sha256")
        return found


T = TypeVar("T")
S = TypeVar("S", bound=ResultSettings)
C = TypeVar("C", bound=CheckedInputs)


class JobRun(ABC, Generic[S, C]):
    """One run of a job in its result directory.

    Attributes
    ----------
    settings, inputs, monitor
        Settings of the run, what :meth:`check` returned for them, and whom to report to.
    layout : Layout
        Of the result directory.
    stages : Stages
    notes : list of str
        What the report and job.yaml say on top: warnings of all stages, and what :meth:`note` added.
    """

    name: ClassVar[str]

    def __init__(self, settings: S, inputs: C, monitor: Monitor) -> None:
        self.settings, self.inputs, self.monitor = settings, inputs, monitor
        self.layout = Layout(settings.o)
        self.stages = Stages(self.layout.checkpoint)
        self.notes: list[str] = []
        self._recorded = False

    @classmethod
    @abstractmethod
    def check(cls, settings: S, monitor: Monitor) -> C:
        """Read the inputs and refuse what cannot work; nothing is written but messages.

        Raises
        ------
        InputError
            In one sentence, for whatever is wrong with the files or does not fit together.
        """

    @abstractmethod
    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """All stages; returns what job.yaml says of the results, and the outputs."""

    @classmethod
    def start(cls, settings: S, monitor: Monitor) -> JobResult:
        """Run the job, or continue one that was interrupted.

        Raises
        ------
        InputError
            When the inputs cannot be used.
        ResumeError
            When the directory holds a job that these settings cannot continue.
        JobAborted
            When the user asks for it; everything finished so far stays, and the same call continues.
        """
        begin = time.monotonic()
        use_threads(settings.j)
        refuse_other_results(settings.o, cls.name)
        inputs = cls.check(settings, monitor)
        if inputs.continuation is not None:
            check_continuation(settings.o, settings, inputs.record, inputs.continuation)
        refuse_foreign_files(settings.o)
        make_output_directory(settings.o)
        remove_unfinished(settings.o)
        if sentence := have_compiler_cache():
            monitor.message(sentence)
        run = cls(settings, inputs, monitor)
        with recorded_failure(settings.o), told(monitor.message):
            results, outcome = run.work()
            run.record("finished", {**results, "notes": run.notes, "seconds": run.stages.seconds()})
        shown = run.layout.report if run.layout.report.exists() else settings.o
        monitor.message(f"Finished in {time.monotonic() - begin:.0f} s: see {shown}")
        return outcome

    @property
    def facts(self) -> RunFacts:
        """The run as its report shows it."""
        return RunFacts(self.layout, self.name, self.settings, self.notes, self.stages.seconds())

    def stage(self, name: str, key: str, title: str, work: Callable[[], object], *products: Path) -> None:
        """Do a stage unless it is finished with this key, see :meth:`Stages.run`; its warnings become notes."""
        self._add_notes(self.stages.run(name, key, self.monitor, title, work, products))
        self._begun()

    def headline(self, sentence: str) -> None:
        """Say in one sentence what was found: the first of the notes, before all warnings."""
        self.notes = [sentence, *(one for one in self.notes if one != sentence)]
        self.monitor.message(sentence)

    def each_time(self, name: str, key: str, work: Callable[[], T]) -> T:
        """Do what every run has to do, as opening its images; the time of the first run counts as that of a stage."""
        begin, earlier = time.monotonic(), len(self.monitor.warnings)
        found = work()
        self.stages.note_seconds(name, key, time.monotonic() - begin)
        self._add_notes(self.monitor.warnings[earlier:])
        self._begun()
        return found

    def note(self, *sentences: str) -> None:
        """Say sentences that belong into the report."""
        self._add_notes(sentences)
        for sentence in sentences:
            self.monitor.message(sentence)

    def note_single_images(self, model: Heterogeneity) -> dict[str, Any]:
        """Say what single images gain by a model over the average structure; return it for job.yaml.

        Nothing where the engine does not measure it on images that the model was not learned from.
        """
        found = weighed(model)
        if found is None:
            return {}
        self.note(found.sentence())
        return {"single_images": {name: round(value, 4) for name, value in found.as_numbers().items()}}

    def note_data_sign(self, folders: Iterable[Path], data_sign: int, particles: ParticleSet, returned: str) -> None:
        """Write maps in the sign of the images where RELION needs them, and say what the user must know of the sign.

        Parameters
        ----------
        folders : iterable of Path
            With a map each.
        data_sign : int
        particles : ParticleSet
        returned : str
            Name of the particles that the job returns.
        """
        write_maps_for_relion(folders, data_sign, returned)
        self.note(*sign_sentences(particles, data_sign, returned))

    def say_particles(self, n: int, native_box: int, box: int, notes: Iterable[str]) -> None:
        """Say what is worked on, and how the files were understood."""
        self.monitor.message(f"{n} particles of {native_box} px, worked on in a box of {box} px")
        for sentence in notes:
            self.monitor.message(f"Note: {sentence}")

    def open_images(
        self, particles: ParticleSet, preprocessing: PreprocessSettings, folder: str = "images"
    ) -> ParticleImages:
        """Preprocess images, or open those that an earlier run has preprocessed, in ``folder`` of the checkpoint.

        Images that cannot be used leave nothing behind in a new directory; an abort or a kill leaves what can be
        continued.

        Raises
        ------
        InputError
            When images cannot be read or used.
        """
        try:
            images = open_images(particles, self.layout.checkpoint / folder, preprocessing, self.monitor, rebuild=True)
        except InputError:
            if self.stages.none_finished:
                shutil.rmtree(self.layout.checkpoint, ignore_errors=True)
            raise
        if images.remarks:
            self.monitor.message(f"Images with remarks are listed in {self.layout.image_remarks}")
        write_remarks(self.layout.image_remarks, images)
        return images

    def record(self, status: str, results: Mapping[str, Any]) -> None:
        """Write job.yaml."""
        write_record(self.layout.root, self.name, status, self.settings, self.inputs.record, results)

    def _begun(self) -> None:
        """Record the job as running once something of it is done: one that is refused before leaves no record."""
        if not self._recorded:
            self._recorded = True
            self.record("running", {})

    def _add_notes(self, sentences: Iterable[str]) -> None:
        self.notes += [sentence for sentence in dict.fromkeys(sentences) if sentence not in self.notes]
