"""The commands: each a function of its options that returns the exit code."""
