"""Parts of the comparison with the public peer; the command is ``benchmarks/against_peer.py``."""
