"""Whether all is there that the pipeline needs, and what to do where it is not."""
