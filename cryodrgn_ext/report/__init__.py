"""Reports of finished jobs: pages, plots, pictures of maps."""
