"""A checkpoint on its way: rounds as numbered messages through a pipe or over TLS. It touches no live process."""
