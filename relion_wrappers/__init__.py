"""Entry points of RELION: External jobs under the contract of RELION 3.1 to 5.

A wrapper translates arguments, calls one function of :mod:`cryodrgn_ext.jobs`, and hands the result over as nodes.
The life cycle (markers, abort, signals) lives in :mod:`relion_wrappers.lifecycle` and nowhere else.
"""
