"""The way to the master: logging in, looking around, making a job; one small adapter over cryosparc-tools 4.7 and 5.

What the versions call differently is here and in :mod:`external_job` (5) and :mod:`external_job_v4` (4.7); nothing else
in this package knows the client. Errors of the client and of the network leave as :class:`MasterError`, one sentence.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import urllib.parse
from pathlib import Path
from typing import Any

from cryodrgn_ext.errors import InputError
from cryosparc_jobs.errors import MasterError, asking, client_errors, sentence_of
from cryosparc_jobs.external_job import ExternalJob
from cryosparc_jobs.external_job_v4 import ExternalJobV4
from cryosparc_jobs.slots import SourceOutput

# Where the client looks for the address by itself.
ADDRESSES = ("CRYOSPARC_BASE_URL", "CRYOSPARC_MASTER_HOSTNAME", "CRYOSPARC_HOST", "CRYOSPARC_BASE_PORT")


def connect(url: str | None = None, email: str | None = None) -> Any:
    """Make a client that is logged in, with credentials from its own token store or environment variables.

    Parameters
    ----------
    url : str, optional
        Address of the CryoSPARC web page; when omitted, that of the environment (CRYOSPARC_BASE_URL), else that of the
        saved login if there is only one.
    email : str, optional
        Which of several saved sessions to use.

    Returns
    -------
    cryosparc.tools.CryoSPARC

    Raises
    ------
    InputError
        When cryosparc-tools is not installed, or no address or no credentials are found.
    MasterError
        When the master cannot be reached.
    """
    try:
        tools = importlib.import_module("cryosparc.tools")
    except ImportError:
        raise InputError("cryosparc-tools is not installed: pip install it in the version of your CryoSPARC.") from None
    known = inspect.signature(tools.CryoSPARC.__init__).parameters
    arguments: dict[str, Any] = {} if email is None else {"email": email}
    if url is None and not any(os.environ.get(name) for name in ADDRESSES):
        url = _address_of_login(email)
    if url is not None and "base_url" in known:
        # Both ways of naming the master may be set in the environment, and exclude each other.
        arguments |= {"base_url": url.rstrip("/"), "host": None, "base_port": None}
    elif url is not None:
        parts = urllib.parse.urlsplit(url)
        arguments |= {"host": parts.hostname, "base_port": parts.port or 39000}
    try:
        return tools.CryoSPARC(**arguments)
    except AssertionError:
        # 4.7 puts the license ID itself into the message: it must not reach a screen or a log.
        raise InputError(
            "CryoSPARC cannot be asked: CRYOSPARC_LICENSE_ID, CRYOSPARC_EMAIL or CRYOSPARC_PASSWORD is missing or "
            "malformed in the environment."
        ) from None
    except (ValueError, TypeError) as error:
        raise InputError(
            f"CryoSPARC cannot be asked: {sentence_of(error)} Run 'python -m cryosparc.tools login --url ADDRESS' once."
        ) from None
    except client_errors() as error:
        raise MasterError(f"CryoSPARC at {url or 'the address of the environment'}: {sentence_of(error)}") from None


def _address_of_login(email: str | None) -> str:
    """Address of the only saved login; a login remembers its own, but the client asks for it again.

    Raises
    ------
    InputError
        When there is none, or more than one.
    """
    addresses: list[str] = []
    with contextlib.suppress(ImportError):  # 4.7 saves no logins
        saved = importlib.import_module("cryosparc.auth").InstanceAuthSessions.load().root
        addresses = [url for url, users in saved.items() if users.root and (email is None or email in users.root)]
    if len(addresses) == 1:
        return addresses[0]
    found = f"there are logins at {', '.join(addresses)}" if addresses else "no login is saved"
    raise InputError(
        f"Which CryoSPARC is meant? Name its address with --url (connect(url)) or CRYOSPARC_BASE_URL: {found}. Log in "
        "with 'python -m cryosparc.tools login --url ADDRESS'."
    )


def outputs_of(cs: Any, project: str, job_uid: str) -> dict[str, SourceOutput]:
    """Look up all outputs of a job, by name.

    Raises
    ------
    MasterError
        When there is no such project or job, or the master cannot be reached.
    """
    with asking(f"look up job {job_uid} of project {project}"):
        job = cs.find_job(project, job_uid)
        if is_v5(cs):
            return {
                key: SourceOutput(job_uid, key, output.type, {one.name: one.dtype for one in output.results})
                for key, output in job.outputs.items()
            }
        return {
            group["name"]: SourceOutput(
                job_uid, group["name"], group["type"],
                {one["name"]: one["type"].rpartition(".")[2] for one in job.doc["output_results"]
                 if one["group_name"] == group["name"]},
            )
            for group in job.doc["output_result_groups"]
        }  # fmt: skip


def find_output(cs: Any, project: str, job_uid: str, name: str) -> SourceOutput:
    """Look up an output of a job of the same project.

    Raises
    ------
    InputError
        When the job has no such output.
    MasterError
        When there is no such project or job, or the master cannot be reached.
    """
    outputs = outputs_of(cs, project, job_uid)
    if name not in outputs:
        raise InputError(
            f"Job {project}-{job_uid} has no output {name!r}; it has {', '.join(map(repr, outputs)) or 'none'}."
        )
    return outputs[name]


def load_output(cs: Any, project: str, source: SourceOutput) -> Any:
    """Return all rows and slots of an output, own and passed through, as a ``cryosparc.dataset.Dataset``.

    Raises
    ------
    MasterError
        When the master cannot be reached, or has no rows.
    """
    with asking(f"load {source.job_uid} {source.name} of project {project}"):
        # What [] means differs: all that is saved in 4.7, the master's choice in 5.
        return cs.find_job(project, source.job_uid).load_output(source.name, slots="all" if is_v5(cs) else [])


def project_directory(cs: Any, project: str) -> Path:
    """Return a project's directory as the master names it; it need not be visible here.

    Raises
    ------
    MasterError
        When there is no such project, or the master cannot be reached.
    """
    with asking(f"say where project {project} is"):
        found = cs.find_project(project)
        return Path(str(found.dir if is_v5(cs) else found.dir()))


def create_external_job(cs: Any, project: str, workspace: str, title: str, description: str = "") -> ExternalJob:
    """Make an External job.

    Raises
    ------
    MasterError
        When there is no such workspace, or the master cannot be reached.
    """
    with asking(f"create a job in workspace {workspace} of project {project}"):
        made = cs.create_external_job(project, workspace, title=title, desc=description)
    return (ExternalJob if is_v5(cs) else ExternalJobV4)(cs, made)


def is_v5(cs: Any) -> bool:
    """Whether a client is of version 5."""
    return hasattr(cs, "api")
