"""CRIU's images as rounds: what those who look into images ask for."""
