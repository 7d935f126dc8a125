"""``python -m relion_wrappers train ...``: the program of a job by hand, as ``cdx-relion-train``."""

from __future__ import annotations

import sys

from cryodrgn_ext.jobs.registry import JOBS
from relion_wrappers.entry_point import run_program

if __name__ == "__main__":
    names = [job.name for job in JOBS.values() if job.relion_program]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m relion_wrappers JOB ...: the job is one of {', '.join(names)}.")
    sys.exit(run_program(sys.argv[1], sys.argv[2:]))
