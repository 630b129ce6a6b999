#!/bin/bash
# Make of the guest ami-tty a whole disk that starts by itself: no loop device or mount.
#
# usage: disk.sh OUT_DIR [CACHE_DIR]
#
#   OUT_DIR/disk  40 MiB, raw, sparse: an MBR with GRUB, and one ext4 partition with the root file
#                 system of OUT_DIR/ami and in its /boot OUT_DIR/{aki,ari}, which build.sh made
#
# GRUB's packages are fetched into CACHE_DIR (OUT_DIR/packages), like those of build.sh.  The same
# packages and files give the same bytes, and then nothing is built anew.
set -euo pipefail
export LC_ALL=C

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: $0 OUT_DIR [CACHE_DIR]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
mkdir -p "${2:-$1/packages}"
out=$(cd "$1" && pwd -P)
cache=$(cd "${2:-$1/packages}" && pwd -P)
PATH=$PATH:/usr/sbin:/sbin

packages=(grub-common grub-pc-bin)
size_mib=40
first=2048     # the partition's first sector; GRUB's core lies between the MBR and it
root=/dev/vda1 # as the guest's kernel names it
epoch=1262304000
. "$here/packages.sh"

little() { # NUMBER: as four bytes, the least first
    local each
    for each in 0 8 16 24; do printf "\\x$(printf %02x $(($1 >> each & 255)))"; done
}

make_partition() { # the root file system, grown, with kernel and ramdisk in it
    export E2FSPROGS_FAKE_TIME=$epoch
    cp --sparse=always "$out/ami" "$work/root"
    truncate -s $(((size_mib * 2048 - first) * 512)) "$work/root"
    e2fsck -fp "$work/root" > "$work/said" 2>&1
    resize2fs "$work/root" >> "$work/said" 2>&1
    {
        printf 'mkdir boot\nwrite "%s" boot/vmlinuz\nwrite "%s" boot/initrd\n' "$out/aki" "$out/ari"
        for name in boot boot/vmlinuz boot/initrd; do
            for when in atime ctime mtime; do echo "sif $name $when @$epoch"; done
        done
        echo "ssv lastcheck @$epoch" # which e2fsck takes from the clock
    } > "$work/commands"
    debugfs -w -f "$work/commands" "$work/root" >> "$work/said" 2>&1
    e2fsck -fn "$work/root" >> "$work/said" 2>&1 ||
        fail "the file system is broken: $(cat "$work/said")"
}

make_core() { # GRUB with all it needs, in the form its boot sector loads from sector 1
    cat > "$work/grub.cfg" << END
set root=(hd0,msdos1)
linux /boot/vmlinuz root=$root console=tty0 console=ttyS0 quiet cryptomgr.notests no_timer_check \
tsc=reliable noreplace-smp mitigations=off
initrd /boot/initrd
boot
END
    "$work/grub/usr/bin/grub-mkimage" -O i386-pc -d "$modules" -c "$work/grub.cfg" -p /boot \
        -o "$work/core" biosdisk part_msdos ext2 linux
    [ "$(stat -c %s "$work/core")" -lt $(((first - 1) * 512)) ] || fail "GRUB's core is too large"
}

make_disk() {
    { # boot code, a disk signature, one active partition of type Linux, three unused, the mark
        head -c 440 "$modules/boot.img"
        printf 'mc10\0\0'
        printf '\x80\xfe\xff\xff\x83\xfe\xff\xff'
        little $first
        little $((size_mib * 2048 - first))
        head -c 48 /dev/zero
        printf '\x55\xaa'
        cat "$work/core"
    } > "$work/disk"
    dd if="$work/root" of="$work/disk" bs=512 seek=$first conv=sparse,notrunc status=none
    truncate -s ${size_mib}M "$work/disk"
}

inputs() { # everything the disk is made from, one a line
    cat "$out/inputs"
    for package in "${packages[@]}"; do basename "$(cached "$package")"; done
}

fetch_all "${packages[@]}"
if [ -s "$out/disk" ] && [ "$(inputs)" = "$(cat "$out/disk.inputs" 2> /dev/null)" ]; then
    echo "guest: $out/disk is up to date"
    exit 0
fi
rm -rf "$out"/disk.new.*
work=$(mktemp -d "$out/disk.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
modules=$work/grub/usr/lib/grub/i386-pc
unpack grub-common "$work/grub" ./usr/bin/grub-mkimage
unpack grub-pc-bin "$work/grub" './usr/lib/grub/i386-pc/*'
make_partition
make_core
make_disk
inputs > "$work/inputs"
chmod 644 "$work"/{disk,inputs}
sync "$work"/{disk,inputs}
rm -f "$out/disk.inputs"
mv "$work/disk" "$out/disk"
mv "$work/inputs" "$out/disk.inputs"
echo "guest: built $out/disk"
