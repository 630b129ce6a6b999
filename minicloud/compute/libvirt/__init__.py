"""The real hypervisor: libvirt with QEMU, one file per thing it has to make on a host."""
