"""A loopback imitation of the CryoSPARC master, complete enough for the unpatched cryosparc-tools 5 client.

:class:`Master` serves the functions that an External job needs on 127.0.0.1: login, projects, workspaces, jobs,
inputs and outputs, datasets, files, events, assets. The functions are listed once in ``operations.py``; openapi.json
and the routing are made from that list. Jobs, projects and events are the client's own pydantic models, and what
arrives is validated with them. A project is a directory on disk in CryoSPARC's layout: ``P1/J1/J1_particles.cs``,
``job.json``, uploaded files.

Faults are injected by function name (:class:`Fault`): connections dropped in the middle of an upload, answers lost
after the work was done, status 500, slow answers, uploads that arrive empty or cut. A project can be made
read-only, and a job can be killed as if in the web page.

It is stricter than the original may be: columns outside an output's slots, uids that the connected input does not
have, maps that name no existing file, and a second upload without ``overwrite`` are refused.

What it cannot prove:

- the real paths of the addresses, which come from the master's own openapi.json (only the names of functions,
  their arguments, and their bodies are the client's);
- which columns the original lists for a data type and how it names its files: ``fields.py`` has the columns that
  exported files show;
- what the original refuses and in which words, beyond what the client's documentation says;
- anything of the web page, the scheduler, permissions of users, or of versions before 5.
"""

from __future__ import annotations

from tests.cryosparc_master.faults import Fault
from tests.cryosparc_master.instance import ParentOutput, Refusal
from tests.cryosparc_master.server import EMAIL, PASSWORD, Master

__all__ = ["EMAIL", "PASSWORD", "Fault", "Master", "ParentOutput", "Refusal"]
