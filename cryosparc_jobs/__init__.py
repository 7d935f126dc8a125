"""Jobs of cryodrgn-ext as External jobs of CryoSPARC, through its own client, cryosparc-tools.

Every job of the registry that runs in a suite is a function here: ``train``, ``abinit``, ``select``, ``validate``,
``landscape``, ... Credentials are never taken as arguments, written or logged: the client finds them in its own token
store (``python -m cryosparc.tools login``) or in its environment variables.
"""

from __future__ import annotations

from collections.abc import Callable

from cryosparc_jobs.client import connect
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.fetching import fetch
from cryosparc_jobs.job_functions import job_function
from cryosparc_jobs.job_kinds import job_kinds
from cryosparc_jobs.running import FinishedJob

__all__ = ["FinishedJob", "MasterError", "abinit", "connect", "fetch", "landscape", "select", "train", "validate"]


def __getattr__(name: str) -> Callable[..., FinishedJob]:
    """Return the function of the job ``name``."""
    kind = job_kinds().get(name.removesuffix("_").replace("_", "-"))  # import_ is import
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return job_function(kind)


def __dir__() -> list[str]:
    return sorted({*globals(), *(kind.job.identifier for kind in job_kinds().values())})
