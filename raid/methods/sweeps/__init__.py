"""Sweeps: searches over the settings of a method, whose trials are runs as any other."""
