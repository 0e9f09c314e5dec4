"""How often memory was written, round by round."""
