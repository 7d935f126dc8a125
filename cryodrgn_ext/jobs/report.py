"""The job that writes report.html and logfile.pdf of a finished result again, as after an update of the program.

Nothing is computed anew, and nothing else in the directory changes.
"""

from __future__ import annotations

from cryodrgn_ext.errors import InputError
from cryodrgn_ext.jobs.registry import JOBS
from cryodrgn_ext.options.report import ReportSettings
from cryodrgn_ext.progress import Monitor
from cryodrgn_ext.results.layout import Layout, find_result_directory
from cryodrgn_ext.results.record import read_record
from cryodrgn_ext.workflow.directory_lock import directory_lock
from cryodrgn_ext.workflow.finished_result import read_finished
from cryodrgn_ext.workflow.job_result import JobResult


def report(settings: ReportSettings, monitor: Monitor) -> JobResult:
    """Write the report of a finished result again, from what the result directory holds.

    Parameters
    ----------
    settings : ReportSettings
    monitor : Monitor

    Returns
    -------
    JobResult
        The log as PDF.

    Raises
    ------
    InputError
        When there is no result, it is not finished, it is of a job without a report, or a file of it is gone.
    """
    directory = find_result_directory(settings.in_result)
    record = read_record(directory)
    if record is None or record.get("status") != "finished":
        raise InputError(f"the job in {directory} is not finished: continue it, and it writes its report.")
    job = JOBS.get(record["job"])
    again = None if job is None else job.load_report()
    if job is None or again is None:
        kinds = ", ".join(name for name, one in JOBS.items() if one.report)
        raise InputError(f"{directory} holds the results of a {record['job']} job; {kinds} jobs have reports.")
    layout = Layout(directory)
    with directory_lock(directory):
        again(read_finished(directory, record, job.settings_class), monitor)
    monitor.message(f"Wrote {layout.report} and {layout.logfile} again.")
    return JobResult(directory, (), layout.logfile)
