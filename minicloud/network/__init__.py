"""The network daemon: serves the networks of its host."""
