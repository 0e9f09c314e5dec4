"""Files that a process had mapped: whether they are the same still, and what is taken from them."""
