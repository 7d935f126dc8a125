"""Outputs of jobs and the slots that inputs and outputs are made of, as both versions of the client have them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """One low-level result of an input or an output.

    Attributes
    ----------
    name : str
        Prefix of its columns.
    dtype : str
        CryoSPARC's name of its type; the name itself when empty.
    required : bool
        Whether an input refuses a source without it.
    """

    name: str
    dtype: str = ""
    required: bool = True


@dataclass(frozen=True)
class SourceOutput:
    """An output of a finished job that can be connected to ours.

    Attributes
    ----------
    job_uid, name : str
    type : str
        ``particle``, ``volume``, ...
    slots : dict of str to str
        Name and type of every low-level result that it has, own or passed through.
    """

    job_uid: str
    name: str
    type: str
    slots: dict[str, str]
