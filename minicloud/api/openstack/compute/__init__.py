"""Compute v2.1, without microversions."""
