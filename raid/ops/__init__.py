"""Pure numerics: arrays in, arrays out. No files, no configuration, no cluster."""
