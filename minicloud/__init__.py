"""minicloud: the original OpenStack Nova in a small, modern form."""

__version__ = "0.1.0"
