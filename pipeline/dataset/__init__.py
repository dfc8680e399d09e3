"""Room one: from a source of images to a manifest. Knows nothing of features."""
