"""Image v2."""
