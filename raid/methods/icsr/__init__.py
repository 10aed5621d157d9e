"""ICSR: see `raid.methods.icsr.recipe`."""
