"""What learns the heterogeneity: engines chosen by name, one result object for all."""
