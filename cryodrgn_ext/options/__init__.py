"""The settings of every job, one file each; nothing heavy is imported here, so that entry points start fast."""
