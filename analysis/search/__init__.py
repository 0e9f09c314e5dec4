"""What matches a pattern, and where."""
