"""The compute daemon: makes the guests of its host equal to their rows."""
