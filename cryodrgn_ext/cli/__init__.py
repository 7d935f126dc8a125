"""The command line ``cryodrgn-ext``: one sub-command per job."""
