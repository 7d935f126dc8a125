"""Neural heterogeneous reconstruction inside RELION and cryoSPARC.

The rooms of this package import downward only (see ``tests/test_import_direction.py``)::

    cli                                           doors: thin
    jobs                                          one function per job
    analysis, validation                          latents and selection | states and their evidence
    engines                                       neural
    reconstruction                                weighted backprojection
    images, simulate                              stacks, preprocessing, the coefficient store
    imaging                                       pure functions on tensors
    metadata                                      ParticleSet, STAR, pickles (no torch)
    errors, atomic, progress, settings            the ground floor, importable from everywhere
"""

__version__ = "0.1.0"
