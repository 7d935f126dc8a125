"""Jobs of cryodrgn-ext as External jobs of CryoSPARC, through its own client, cryosparc-tools.

Credentials are never taken as arguments, written or logged: the client finds them in its own token store (``python -m
cryosparc.tools login``) or in its environment variables.
"""

from __future__ import annotations

from cryosparc_jobs.abinitio import abinit
from cryosparc_jobs.client import connect
from cryosparc_jobs.errors import MasterError
from cryosparc_jobs.fetching import fetch
from cryosparc_jobs.landscaping import landscape
from cryosparc_jobs.running import FinishedJob
from cryosparc_jobs.selecting import select
from cryosparc_jobs.training import train
from cryosparc_jobs.validating import validate

__all__ = ["FinishedJob", "MasterError", "abinit", "connect", "fetch", "landscape", "select", "train", "validate"]
