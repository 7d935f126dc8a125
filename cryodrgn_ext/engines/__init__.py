"""Engines learn the heterogeneity of a set of images; all give the same result object (:mod:`.base`)."""
