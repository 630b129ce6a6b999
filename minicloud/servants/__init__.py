"""Servants of a cloud that need more than a command line: its own libvirtd, virtlogd and tgtd."""
