"""The job that compares replicate runs: do latents and states agree, and for which particles (Zhong 2022, 4.4.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryodrgn_ext.analysis.latents import cluster_latents
from cryodrgn_ext.analysis.replicates import RunComparison, compare_runs
from cryodrgn_ext.errors import InputError
from cryodrgn_ext.metadata.row_matching import shared_pairs
from cryodrgn_ext.options.compare import CompareSettings
from cryodrgn_ext.plain_files import write_arrays
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.report.compare_report import write_compare_reports
from cryodrgn_ext.report.pictures import draw_latents
from cryodrgn_ext.results.landscape_tables import read_arrays
from cryodrgn_ext.results.learned_result import LearnedResult, read_learned_result
from cryodrgn_ext.results.returned_particles import (
    AGREEMENT_COLUMN,
    latent_star_columns,
    returned_name,
    say_conversion,
    wants_columns,
    write_groups,
    write_particles,
)
from cryodrgn_ext.workflow.finished_result import FinishedResult
from cryodrgn_ext.workflow.job_outputs import kept_files, picture
from cryodrgn_ext.workflow.job_result import ALL, JobResult, ParticleOutput
from cryodrgn_ext.workflow.job_run import CheckedInputs, JobRun

TABLE_NAME = "compare.npz"
FIGURES = ("adjusted_rand", "percentage", "linear", "neighbors")
#: Below this adjusted Rand index of a pair of runs their states are not the same partition in any useful sense.
POOR_AGREEMENT = 0.3


def compare(settings: CompareSettings, monitor: Monitor) -> JobResult:
    """Compare the latents and states of runs on the same particles, and return the particles on which they agree.

    Parameters
    ----------
    settings : CompareSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The common particles with the number of runs that agree on their state, and those of each state on which all do.

    Raises
    ------
    InputError
        When there are fewer than two runs, one has no latents or states, or they share no particles.
    """
    return CompareRun.start(settings, monitor)


@dataclass(frozen=True, kw_only=True)
class CompareInputs(CheckedInputs):
    """Checked inputs.

    Attributes
    ----------
    runs : tuple of LearnedResult
    labels : tuple of ndarray
        (N_r,) int32 state or cluster of each particle of a run; negative for none.
    rows : tuple of ndarray
        (n,) rows of the common particles in each run, in the order of the first.
    """

    runs: tuple[LearnedResult, ...]
    labels: tuple[NDArray[np.int32], ...]
    rows: tuple[NDArray[np.int64], ...]


def _common_rows(
    runs: Sequence[LearnedResult], names: Sequence[Path], monitor: Monitor
) -> tuple[NDArray[np.int64], ...]:
    """Return the rows of the particles that all runs share, one array for each run, in the order of the first.

    Raises
    ------
    InputError
        When runs have no particle in common, or names and images do not agree.
    """
    first = runs[0]
    places = [np.arange(first.particles.n)]
    for run, name in zip(runs[1:], names[1:], strict=True):
        place = np.full(first.particles.n, -1)
        if np.array_equal(run.particles.uid, first.particles.uid):  # made of the names of images, unless CryoSPARC's
            before, found = (one.found_images.get("sha256") for one in (first, run))
            if None not in (before, found) and before != found:
                raise InputError(
                    f"{name} has particles of the same names as {names[0]}, but other images "
                    f"({run.particles.project_dir}, {first.particles.project_dir}): they are no replicates."
                )
            place = np.arange(first.particles.n)
        else:
            mine, match = shared_pairs(run.particles, first.particles)
            place[match.rows] = mine
            if len(mine):
                monitor.message(f"{len(mine)} particles of {name} are in {names[0]}, found by {match.joined_by}.")
            for note in match.notes:
                monitor.message(f"Note: {note}.")
        places.append(place)
    common = np.flatnonzero(np.all([place >= 0 for place in places], axis=0))
    if not len(common):
        raise InputError(f"{' and '.join(map(str, names))} have no particle in common: they are no replicates.")
    return tuple(place[common] for place in places)


class CompareRun(JobRun[CompareSettings, CompareInputs]):
    """One run of the job."""

    name = "compare"

    @classmethod
    def check(cls, settings: CompareSettings, monitor: Monitor) -> CompareInputs:
        """Read the results, and find the particles that they share; see :meth:`JobRun.check`."""
        if len(settings.in_results) < 2:
            raise InputError("give at least two result directories: replicate runs are compared with one another.")
        runs = tuple(read_learned_result(path) for path in settings.in_results)
        labels = tuple(_labels(settings, run) for run in runs)
        rows = _common_rows(runs, settings.in_results, monitor)
        labelled = np.all([label[own] >= 0 for label, own in zip(labels, rows, strict=True)], axis=0)
        if not labelled.any():
            raise InputError("no particle has a state in all of the runs: give results of the same particles.")
        record = {"results": [str(run.directory.resolve()) for run in runs], "in_parts": runs[0].record()["in_parts"]}
        return CompareInputs(record=record, runs=runs, labels=labels, rows=tuple(own[labelled] for own in rows))

    def work(self) -> tuple[Mapping[str, Any], JobResult]:
        """Compare, write and report."""
        inputs, layout = self.inputs, self.layout
        found = compare_runs(
            [run.require_latents().z[own] for run, own in zip(inputs.runs, inputs.rows, strict=True)],
            [label[own] for label, own in zip(inputs.labels, inputs.rows, strict=True)],
            self.settings.seed,
        )
        self._note(found)
        first = inputs.runs[0]
        write_arrays(layout.root / TABLE_NAME, {
            "uid": first.particles.uid[inputs.rows[0]], "row": inputs.rows[0], "label": found.label,
            "votes": found.votes, **{name: getattr(found, name) for name in FIGURES},
        })  # fmt: skip
        groups = self._write_particles(found)
        write_compare_reports(self.facts, self._names, found, first.require_latents().z[inputs.rows[0]])
        results = {
            "runs": self._names,
            "common_particles": len(inputs.rows[0]),
            "agreeing_particles": int(found.agreeing.sum()),
            "adjusted_rand": found.adjusted_rand.round(4).tolist(),
            "percentage": found.percentage.round(2).tolist(),
            "latents_linear": found.linear.round(4).tolist(),
            "latents_neighbors": found.neighbors.round(4).tolist(),
            "states": [{"state": number, "particles": len(rows)} for number, rows in groups.items()],
        }
        return results, self._result(found, groups)

    @property
    def _names(self) -> list[str]:
        return [str(path) for path in self.settings.in_results]

    @property
    def _file(self) -> str:
        return returned_name(self.inputs.runs[0].particles, self.settings.particles_format)

    def _note(self, found: RunComparison) -> None:
        runs, rows = self.inputs.runs, self.inputs.rows
        n, agreeing = len(rows[0]), int(found.agreeing.sum())
        left_out = [f"{path} has {run.particles.n - n} more" for path, run in zip(self._names, runs, strict=True)
                    if run.particles.n > n]  # fmt: skip
        self.note(f"{n} particles are in all {len(runs)} runs" + (f" ({'; '.join(left_out)})." if left_out else "."))
        self.note(f"All runs put {agreeing} of them ({100 * agreeing / n:.1f} %) into matching states.")
        pairs = np.triu_indices(len(runs), 1)
        lowest = float(found.adjusted_rand[pairs].min())
        if lowest < POOR_AGREEMENT:
            self.note(
                f"The states of at least one pair of runs hardly agree (adjusted Rand index {lowest:.2f}; 1 for the "
                "same states, 0 for unrelated ones): a state that one run alone shows is no finding. Continuous motion "
                "is cut elsewhere by every run: see whether the latents agree."
            )

    def _write_particles(self, found: RunComparison) -> dict[int, NDArray[np.int64]]:
        """Write the common particles, and those of each state on which all runs agree; return the rows of these."""
        particles, rows, layout = self.inputs.runs[0].particles, self.inputs.rows[0], self.layout
        columns: dict[str, NDArray[np.generic]] = {}
        if self._file.endswith(".star") and wants_columns(particles, self.settings.star_columns):
            label, votes = np.full(particles.n, -1, np.int32), np.zeros(particles.n, np.int32)
            label[rows], votes[rows] = found.label[:, 0], found.votes
            columns = {**latent_star_columns(None, label), AGREEMENT_COLUMN: votes}
        say_conversion(particles, layout.root / self._file, self.monitor)
        layout.states.mkdir(exist_ok=True)
        agreed = rows[found.agreeing]
        of_agreed = found.label[found.agreeing, 0]
        groups = {int(number): agreed[of_agreed == number] for number in np.unique(of_agreed)}
        for number in groups:
            layout.state(number).mkdir(exist_ok=True)
        write_groups(layout, self._file, particles, groups, columns)
        write_particles(layout.root / self._file, particles, rows, columns)
        return groups

    def _result(self, found: RunComparison, groups: Mapping[int, NDArray[np.int64]]) -> JobResult:
        layout, uid, rows = self.layout, self.inputs.runs[0].particles.uid, self.inputs.rows[0]
        z = self.inputs.runs[0].require_latents().z[rows]
        shown = picture(layout, "agreement", "Particles of the first run, by the number of runs that agree",
                        partial(draw_latents, z, found.votes - 1, what="runs that agree, less 1"))  # fmt: skip
        outputs = [ParticleOutput(name=ALL, title="Common particles", uid=uid[rows], path=layout.root / self._file,
                                  picture=shown)]  # fmt: skip
        outputs += [
            ParticleOutput(name=f"state_{number:02d}", title=f"State {number:02d}: particles on which all runs agree",
                           uid=uid[members], path=layout.state(number) / self._file)
            for number, members in groups.items()
        ]  # fmt: skip
        return JobResult(layout.root, tuple(outputs), layout.logfile, (shown,), shown, kept_files(layout, TABLE_NAME))


def _labels(settings: CompareSettings, run: LearnedResult) -> NDArray[np.int32]:
    """(N,) States of a run, or clusters of its latents."""
    z = run.require_latents().z
    if settings.clusters is not None:
        return cluster_latents(z, settings.clusters, seed=settings.seed).label
    if run.states is None:
        raise InputError(f"{run.directory} has no states to compare: give --clusters, to cut the latents of each run.")
    return run.states.label


def report_compare(finished: FinishedResult, monitor: Monitor) -> None:
    """Write the report of a finished job again.

    Raises
    ------
    InputError
        When compare.npz, or the first of the compared results, is gone.
    """
    arrays = read_arrays(finished.layout.root / TABLE_NAME)
    figures = {name: arrays[name].astype(np.float64) for name in FIGURES}
    found = RunComparison(label=arrays["label"].astype(np.int32), **figures)
    first = read_learned_result(Path(finished.record["inputs"]["results"][0]))
    z = first.require_latents().z[arrays["row"].astype(np.int64)]
    write_compare_reports(finished.facts, finished.record["results"]["runs"], found, z)
    monitor.poll()
