"""Parts of ``gpu.py``: what a pass moves and computes, results against the CPU's, and speeds at several sizes."""
