"""What `tools/minicloud.sh` does, with the standard library only: it runs before an install.

`minicloud.processes` and `minicloud.kvm` are all of the product it imports.
"""
