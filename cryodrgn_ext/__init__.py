"""Neural heterogeneous reconstruction inside RELION and cryoSPARC.

The rooms of this package import downward only (see ``tests/test_import_direction.py``)::

    cli                                           entry points: thin
    explorer                                      a web page on this machine; runs jobs as a user does
    jobs                                          one job, one file: settings in, JobResult out; knows no suite
    workflow                                      the skeleton of all jobs: checks, stages, record, lock, log, launcher
    report                                        plots, pages, pictures
    results                                       files of a result directory, read and written once
    analysis, validation                          latents, landscapes, selections | states and their evidence
    engines                                       neural, subspace
    pose                                          search over orientations and shifts, ab initio maps
    reconstruction                                weighted backprojection
    images, simulate                              stacks, preprocessing, the coefficient store
    fourier                                       pure functions on tensors
    metadata                                      ParticleSet, STAR, CS, pickles (no torch)
    errors, durable_files, progress, settings     the ground floor, importable from everywhere
"""

from __future__ import annotations

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """``cryodrgn_ext.explore(result)`` for notebooks; imported when it is asked for, as that takes seconds."""
    if name == "explore":
        from cryodrgn_ext.explorer.notebook import explore

        return explore
    raise AttributeError(f"module 'cryodrgn_ext' has no attribute {name!r}")
