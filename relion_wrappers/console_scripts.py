"""Console scripts of the project, from the registry of jobs: read by the build, where nothing is installed yet."""

from __future__ import annotations

from cryodrgn_ext.jobs.registry import JOBS


def console_scripts() -> dict[str, str]:
    """Name to ``module:function`` of the command line and of every job's program for RELION."""
    programs = {
        job.relion_program: f"relion_wrappers.entry_point:{job.identifier}"
        for job in JOBS.values()
        if job.relion_program
    }
    return {"cryodrgn-ext": "cryodrgn_ext.cli:main", **programs}
