#!/bin/bash
# Build the guest image ami-tty from Debian packages: no compiler, loop device or mount.
#
# usage: build.sh OUT_DIR [CACHE_DIR]
#
#   OUT_DIR/aki   kernel: Debian's cloud kernel, as it is
#   OUT_DIR/ari   initial ramdisk: busybox and the virtio modules (cpio)
#   OUT_DIR/ami   root file system: busybox and dropbear on ext4, raw, sparse, no partition table
#
# Packages are fetched into CACHE_DIR (OUT_DIR/packages), only what is missing; with all of them
# there no network is used.  The same packages and the same files here give the same bytes, and
# then nothing is built anew.  Ending it at any point harms nothing: run it again.
set -euo pipefail
export LC_ALL=C

[ $# -ge 1 ] && [ $# -le 2 ] || { echo "usage: $0 OUT_DIR [CACHE_DIR]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
mkdir -p "$1" "${2:-$1/packages}"
out=$(cd "$1" && pwd -P)
cache=$(cd "${2:-$1/packages}" && pwd -P)
PATH=$PATH:/usr/sbin:/sbin # mke2fs and debugfs, for those whose PATH lacks them

size_mib=32
kernel='linux-image-*-cloud-amd64' # its package's name holds the version
packages=(busybox-static dropbear-bin libtomcrypt1 libtommath1 libgmp10 zlib1g libc6 libcrypt1
    e2fsprogs libext2fs2 libcom-err2)
libraries=(libc.so.6 libcrypt.so.1 libz.so.1 libtomcrypt.so.1 libtommath.so.1 libgmp.so.10
    libext2fs.so.2 libe2p.so.2 libcom_err.so.2)
programs=(dropbear dropbearkey resize2fs)
late_modules=(evdev button) # not needed for the boot: they are in the root file system
epoch=1262304000 # every time stamp in the image: 2010-01-01, so that bytes depend on contents only
uuid=616d692d-7474-4979-8000-000000000000

. "$here/packages.sh"

for tool in dpkg-deb cpio mke2fs debugfs; do
    command -v $tool > /dev/null ||
        fail "$tool is missing: apt-get install dpkg cpio e2fsprogs"
done

# --- packages ------------------------------------------------------------------------------------

kernel_package() { # the cloud kernel's own package; the one without a version is empty
    apt-cache depends linux-image-cloud-amd64 2> /dev/null |
        awk '$1 == "Depends:" && $2 ~ /^linux-image-[0-9]/ { print $2; exit }'
}

fetch_kernel() {
    local package
    [ -z "$(cached "$kernel")" ] || return 0
    package=$(kernel_package)
    [ -n "$package" ] || { update_lists && package=$(kernel_package); }
    [ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64: is this Debian 12 on amd64?"
    fetch_all "$package"
}

# --- the three files -----------------------------------------------------------------------------

unsigned() { # MODULE TO: without the signature, whose check takes longer than the module's start
    local size length
    size=$(stat -c %s "$1")
    length=0
    if [ "$(tail -c 28 "$1" | tr -d '\n')" = '~Module signature appended~' ]; then
        # struct module_signature ends with the big-endian length of what is before it
        length=$((16#$(tail -c 32 "$1" | head -c 4 | od -An -tx1 | tr -d ' \n') + 12 + 28))
    fi
    head -c $((size - length)) "$1" > "$2"
}

module() { # NAME TO_DIRECTORY
    local file
    file=$(find "$work/kernel/lib/modules" -name "$1.ko")
    [ -n "$file" ] || fail "the kernel package has no module $1"
    unsigned "$file" "$2/$1.ko"
}

make_ari() {
    local tree=$work/ari name
    mkdir -p "$tree"/{bin,dev,etc,lib,proc,root,sys}
    cp "$work/packages/bin/busybox" "$tree/bin/"
    install -m 755 "$here/ari/init" "$tree/init"
    install -m 644 "$here/ari/modules" "$tree/etc/modules"
    while read -r name; do module "$name" "$tree/lib"; done < "$here/ari/modules"
    find "$tree" -exec touch -h -d @$epoch {} +
    (cd "$tree" && find . | sort | cpio --quiet --reproducible -o -H newc -R 0:0) > "$work/ari.img"
}

ami_tree() {
    local tree=$work/ami name
    mkdir -p "$tree"/{bin,sbin,dev,proc,sys,run,tmp,mnt,root,home/tty,lib64,lib/modules}
    mkdir -p "$tree"/{usr/bin,usr/sbin,etc/dropbear,var/log,var/lib/ami-tty,lib/x86_64-linux-gnu}
    chmod 700 "$tree/root" "$tree/home/tty"
    chmod 1777 "$tree/tmp"
    cp -r "$here/ami/." "$tree/"
    find "$tree/etc" -type f -exec chmod 644 {} +
    (cd "$here/ami" && find . -type f -perm -100 -printf '%P\0') |
        (cd "$tree" && xargs -0 chmod 755)
    chmod 600 "$tree/etc/shadow"
    cp "$work/packages/bin/busybox" "$tree/bin/"
    for name in $("$tree/bin/busybox" --list); do
        [ "$name" = busybox ] || ln -s busybox "$tree/bin/$name"
    done
    ln -s ../bin/busybox "$tree/sbin/init"
    for name in "${programs[@]}"; do
        install -m 755 "$(find "$work/packages" -type f -name "$name" -path '*bin/*')" "$tree/sbin/"
    done
    for name in "${libraries[@]}"; do
        cp -L "$(find "$work/packages" -name "$name" | head -n 1)" "$tree/lib/x86_64-linux-gnu/$name"
    done
    cp -L "$(find "$work/packages" -name ld-linux-x86-64.so.2 | head -n 1)" "$tree/lib64/"
    for name in "${late_modules[@]}"; do module "$name" "$tree/lib/modules"; done
}

ami_commands() { # for debugfs: sorted, so that the order is not the building machine's
    local path kind mode owner
    (cd "$work/ami" && find . -mindepth 1 -printf '%P\t%y\t%m\t%l\n' | sort) |
        while IFS=$'\t' read -r path kind mode target; do
            mode=$(printf %04d "$mode")
            case $kind in
            d) printf '%s\n' "mkdir \"$path\"" "sif \"$path\" mode 04$mode" ;;
            f) printf '%s\n' "write \"$work/ami/$path\" \"$path\"" "sif \"$path\" mode 010$mode" ;;
            l) echo "symlink \"$path\" \"$target\"" ;;
            esac
            owner=(0 0)
            case $path in home/tty*) owner=(1000 100) ;; esac
            printf 'sif "%s" %s\n' "$path" "uid ${owner[0]}" "$path" "gid ${owner[1]}"
            printf 'sif "%s" %s @%s\n' "$path" atime $epoch "$path" ctime $epoch "$path" mtime $epoch
        done
}

make_ami() {
    ami_tree
    export E2FSPROGS_FAKE_TIME=$epoch
    truncate -s ${size_mib}M "$work/ami.ext4"
    # a journal, because guests are powered off at any time; 4 KiB blocks, because disks may grow
    mke2fs -q -F -t ext4 -b 4096 -m 0 -L ami-tty -U $uuid -J size=4 \
        -E hash_seed=$uuid,root_owner=0:0 "$work/ami.ext4"
    ami_commands > "$work/commands"
    debugfs -w -f "$work/commands" "$work/ami.ext4" > "$work/debugfs.out" 2> "$work/debugfs.err"
    ! grep -v '^debugfs ' "$work/debugfs.err" | head >&2 || fail "debugfs could not fill the file system"
    e2fsck -fn "$work/ami.ext4" > "$work/e2fsck.out" 2>&1 ||
        fail "the file system is broken: $(cat "$work/e2fsck.out")"
}

# --- all of it -----------------------------------------------------------------------------------

inputs() { # everything the three files are made from, one a line
    (cd "$here" && find . -type f -printf '%m %P\n' && find . -type f -exec sha256sum {} +) | sort
    for package in "$kernel" "${packages[@]}"; do basename "$(cached "$package")"; done
}

fetch_all "${packages[@]}"
fetch_kernel
if [ -s "$out/aki" ] && [ -s "$out/ari" ] && [ -s "$out/ami" ] &&
    [ "$(inputs)" = "$(cat "$out/inputs" 2> /dev/null)" ]; then
    echo "guest: $out is up to date"
    exit 0
fi

rm -rf "$out"/new.*
work=$(mktemp -d "$out/new.XXXXXX")
trap 'rm -rf "$work"' EXIT
for package in "${packages[@]}"; do unpack "$package" "$work/packages"; done
members=('./boot/vmlinuz-*')
for name in $(cat "$here/ari/modules") "${late_modules[@]}"; do members+=("*/$name.ko"); done
unpack "$kernel" "$work/kernel" "${members[@]}"
cp "$work"/kernel/boot/vmlinuz-* "$work/aki"
make_ari
make_ami
inputs > "$work/inputs"
chmod 644 "$work"/{aki,ari.img,ami.ext4,inputs}
sync "$work"/{aki,ari.img,ami.ext4,inputs}
rm -f "$out/inputs" # it is the last to come: who finds it finds all
mv "$work/aki" "$out/aki"
mv "$work/ari.img" "$out/ari"
mv "$work/ami.ext4" "$out/ami"
mv "$work/inputs" "$out/inputs"
echo "guest: built $out/{aki,ari,ami}"
