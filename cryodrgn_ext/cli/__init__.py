"""The command line: a click group whose options are generated from the settings of the jobs."""

from cryodrgn_ext.cli.main import main

__all__ = ["main"]
