"""The memory of a process that is made anew: its mappings, what is in them, and what several share."""
