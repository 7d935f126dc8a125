"""Small simulated sets of one specimen with one ordinary fault of real data each, for ``benchmarks/nuisances.py``."""
