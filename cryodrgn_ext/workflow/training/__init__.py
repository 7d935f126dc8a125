"""A training as jobs do it: its inputs, the engine's call, and its repetition on other images."""
