"""Image stacks, maps, preprocessing and the coefficient store."""
