"""Linear subspaces of volumes by expectation maximisation, and a curved decoder on their latents."""
