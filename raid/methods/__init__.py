"""The methods, one readable recipe a file."""
