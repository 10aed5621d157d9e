"""The tables of the three papers, and what runs of this project come to in them: `raid tables`."""
