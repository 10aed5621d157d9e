"""One file per loss of the papers."""
