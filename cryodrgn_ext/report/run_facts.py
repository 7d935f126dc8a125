"""Facts about a run that stand in every report, and the writing of both of its forms."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cryodrgn_ext.report.page import ReportContent
from cryodrgn_ext.report.page_html import write_report_html
from cryodrgn_ext.report.page_pdf import write_logfile_pdf
from cryodrgn_ext.results.layout import Layout
from cryodrgn_ext.results.record import versions
from cryodrgn_ext.settings import Settings, describe, text_of

#: Files of every result directory, last in the list.
COMMON_FILES = {
    "job.yaml": "settings, versions, seed, inputs, results",
    "run.log": "everything that the run said",
}


@dataclass(frozen=True)
class RunFacts:
    """A run of a job, as its report shows it.

    Attributes
    ----------
    layout : Layout
        Of the result directory.
    job : str
        Name of the job on the command line.
    settings : Settings
    messages : sequence of str
        Warnings and verdicts, shown on top.
    seconds : mapping
        Time of each part of the job, by name.
    """

    layout: Layout
    job: str
    settings: Settings
    messages: Sequence[str]
    seconds: Mapping[str, float]

    @property
    def seed(self) -> int | None:
        """Seed of everything random, if the job has one."""
        seed: int | None = self.settings.to_mapping().get("seed")
        return seed

    def existing(self, files: Mapping[str, str]) -> dict[str, str]:
        """Those of the output files, by name, that are in the result directory."""
        return {name: what for name, what in files.items() if (self.layout.root / name).exists()}

    def write(self, content: ReportContent, files: Mapping[str, str]) -> None:
        """Write report.html and logfile.pdf.

        Parameters
        ----------
        content : ReportContent
            What is the job's own; command, settings, versions, seed, times, messages and files are filled in here.
        files : mapping
            Output file to what it is, without those of every job.
        """
        whole = replace(
            content,
            command=command_line(self.job, self.settings),
            settings=self.settings.to_mapping(),
            versions=versions(),
            seed=self.seed,
            messages=self.messages,
            seconds=self.seconds,
            elapsed_s=sum(self.seconds.values()) if self.seconds else None,
            date=time.strftime("%Y-%m-%d %H:%M:%S %z"),
            files={**files, **COMMON_FILES},
        )
        write_report_html(self.layout.report, whole)
        write_logfile_pdf(self.layout.logfile, whole)


def command_line(job: str, settings: Settings) -> str:
    """Command line that repeats a job: every setting that differs from its default."""
    words = ["cryodrgn-ext", job]
    for field in describe(type(settings)):
        value = getattr(settings, field.name)
        if field.required or value != field.default:
            words += [field.option, text_of(field, value)]
    return shlex.join(words)
