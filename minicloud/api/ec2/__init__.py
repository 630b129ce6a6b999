"""The EC2 API: one file for each noun, one function for each action."""
