"""From latents to plots, clusters, selections and the report."""
