"""Sets of images of atoms that move, for benchmarks/atomic.py."""
