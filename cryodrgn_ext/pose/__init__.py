"""Poses of particles that have none: search over orientations and shifts, ab initio models, measures of error."""
