"""Structures that move with the latents of a finished training: placed in the map, deformed, fitted to the images."""
