"""The only package that knows of processes, process groups and clusters."""
