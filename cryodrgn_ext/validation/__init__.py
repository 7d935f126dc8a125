"""States and their evidence: half-maps, FSC and comparison with random subsets."""
