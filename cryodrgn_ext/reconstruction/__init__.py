"""Weighted backprojection, Wiener filter and half-maps."""
