"""Particles as the suites describe them: STAR files, optics, half-sets, pickles; no torch."""
