"""The operator's command, `minicloud-manage`: one file per noun, one function per command.

A command imports what it acts through when it runs, so that help and usage errors are instant.
"""
