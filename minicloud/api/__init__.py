"""The front doors: each turns its own wire format into calls of `minicloud.cloud`."""
