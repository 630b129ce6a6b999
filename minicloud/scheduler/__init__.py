"""The scheduler daemon: which host takes an instance."""
