"""From a RELION command line to a job and back: the one path of all ``cdx-relion-...`` programs.

The programs are named in the project's metadata, generated from the registry of jobs, as attributes of this module:
``relion_wrappers.entry_point:train`` is the program of the train job. By hand: ``python -m relion_wrappers train ...``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence

from cryodrgn_ext.progress import open_standard_streams
from relion_wrappers.lifecycle import run_external_job


def __getattr__(name: str) -> Callable[[], int]:
    """Return the program of the job ``name``, without looking whether there is one: a marker says so later."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return functools.partial(run_program, name.removesuffix("_").replace("_", "-"))  # import_ is import


def run_program(job_name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a registered job under RELION's contract.

    Parameters
    ----------
    job_name : str
        Name in :data:`cryodrgn_ext.jobs.registry.JOBS`.
    arguments : sequence of str, optional
        Command line without the program's name; ``sys.argv`` when omitted.

    Returns
    -------
    int
        Exit status.
    """
    open_standard_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "--help" in arguments or "-h" in arguments or not arguments:
        from cryodrgn_ext.jobs.registry import JOBS
        from relion_wrappers.arguments import usage

        job = JOBS[job_name]
        sys.stdout.write(usage(job.settings_class, job.relion_program, job.summary))
        return 0 if arguments else 2

    def work(words: Sequence[str], abort_requested: Callable[[], bool]) -> None:
        _work(job_name, words, abort_requested)

    return run_external_job(arguments, work)


def _work(job_name: str, arguments: Sequence[str], abort_requested: Callable[[], bool]) -> None:
    """Run in the child process: parse, run, declare the nodes."""
    # Imported here, so that a broken installation also ends in a sentence and a marker.
    from cryodrgn_ext.jobs.registry import JOBS
    from cryodrgn_ext.settings import describe
    from cryodrgn_ext.workflow.failure import check_working_directory
    from cryodrgn_ext.workflow.recorded_settings import settings_from_words
    from cryodrgn_ext.workflow.run_log import logged_run
    from relion_wrappers.arguments import given_words
    from relion_wrappers.lifecycle import output_directory
    from relion_wrappers.nodes import write_nodes

    check_working_directory()
    directory = output_directory(arguments)
    if directory is None:  # run_external_job has refused this already
        raise ValueError("--o is missing")
    job = JOBS[job_name]
    with logged_run(directory, job.relion_program, abort_requested) as monitor:
        words = {"o": [str(directory)], **given_words(job.settings_class, arguments)}
        if any(field.name == "particles_format" for field in describe(job.settings_class)):
            words.setdefault("particles_format", ["star"])  # also of particles from CryoSPARC: RELION takes no others
        completed = settings_from_words(job.settings_class, job.name, words)
        for sentence in completed.sentences:
            monitor.message(sentence)
        result = job.load()(completed.settings, monitor)
        names = write_nodes(directory, result.files)
        monitor.message(f"Declared {len(names)} outputs to RELION: {', '.join(names)}")
