"""MAR: see `raid.methods.mar.recipe`."""
