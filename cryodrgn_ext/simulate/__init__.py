"""Simulated particles with known heterogeneity, written as a RELION project."""
