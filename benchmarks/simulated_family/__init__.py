"""Simulated sets of known truth, from a simulator that shares no code with the package."""
