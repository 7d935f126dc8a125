"""Atomic structures: PDB and mmCIF in and out, as arrays; no torch."""
