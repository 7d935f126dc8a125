"""RELION External jobs: they translate arguments, call one job and hand the result to RELION."""
