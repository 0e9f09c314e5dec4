"""Memory that is brought while the process runs already."""
