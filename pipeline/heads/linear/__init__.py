"""Many L2-regularised linear heads on the same rows, solved together."""
