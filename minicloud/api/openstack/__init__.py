"""The OpenStack front doors: Identity v3, Compute v2.1, Image v2."""
