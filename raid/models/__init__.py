"""Networks: backbones with their pooling, batch normalisation and weights."""
