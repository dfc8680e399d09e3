"""Room three: from stored features to trained heads. Never imports images or the backbone."""
