"""Open files of processes that are being made."""
