"""Fourier geometry, slices, CTF, shifts, masks and FSC: pure functions on tensors, no files."""
