"""`raid export`: a trained model as a file that other programs run without raid and without torch."""
