"""Room two: from a manifest to stored features. The only room that knows the backbone."""
