"""The volume daemon."""
