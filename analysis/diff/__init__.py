"""Two rounds compared, from processes down to bytes."""
