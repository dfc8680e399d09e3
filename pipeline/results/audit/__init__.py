"""``pipeline audit``: what is wrong with the data, from the stored features."""
