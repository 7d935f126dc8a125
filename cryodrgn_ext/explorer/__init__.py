"""The explorer: a web page on this machine to look at a result, to choose particles, and to carry them back."""
