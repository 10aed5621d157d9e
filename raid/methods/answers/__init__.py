"""What a trained model is asked for: features of a set, ranked lists, a threshold."""
