"""SLSR: see `raid.methods.slsr.recipe`."""
