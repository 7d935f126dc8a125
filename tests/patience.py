"""How long tests wait for other processes."""

#: Seconds that only a process that never ends takes, however busy the machine is.
HANGS_S = 600.0
