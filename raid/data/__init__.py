"""Images and their manifest: layouts, decoded-image cache, augmentation, sampling, simulation."""
