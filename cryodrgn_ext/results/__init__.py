"""Files of a result directory, read and written once: latents, poses, states, returned particles, where they lie."""
