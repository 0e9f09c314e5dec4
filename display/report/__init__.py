"""A page about a checkpoint for people who would rather look: one file, made of the templates beside this one."""
