"""The whole cloud in one process, for people who just want a cloud: no root, nothing real."""
