"""CRIU's image files: docs/other-formats.md says what they hold."""
