# Debian packages fetched and taken apart without being installed; sourced by build.sh and disk.sh,
# which say where they are kept in `cache`.

fail() {
    echo "error: $*" >&2
    exit 1
}

cached() { # PACKAGE, may hold wildcards: the newest file of it in the cache, if any
    find "$cache" -maxdepth 1 -name "$1_*.deb" | sort -V | tail -n 1
}

update_lists() { # once: the lists may be empty, or older than what the mirror still has
    [ -z "${updated:-}" ] || return 1
    updated=yes
    echo "guest: apt-get update (the package lists are empty or old)"
    apt-get -o DPkg::Lock::Timeout=300 update -qq >&2
}

fetch() { # PACKAGE into the cache; it appears there complete or not at all
    local new=$cache/new.$$
    rm -rf "$cache"/new.*
    mkdir "$new"
    (cd "$new" && apt-get -qq -o APT::Sandbox::User=root download "$1") || return 1
    sync "$new"/*.deb
    mv "$new"/*.deb "$cache/"
    rmdir "$new"
}

fetch_all() { # PACKAGE...: what of them the cache lacks
    local package
    for package; do
        [ -z "$(cached "$package")" ] || continue
        echo "guest: fetching Debian package $package"
        fetch "$package" 2> /dev/null || { update_lists && fetch "$package"; } ||
            fail "cannot fetch the Debian package $package: see apt-get's words above"
    done
}

unpack() { # PACKAGE DIRECTORY [MEMBER-PATTERN...]: all of it, or what matches
    local deb
    deb=$(cached "$1")
    mkdir -p "$2"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$2" ${3:+--wildcards "${@:3}"} || {
        rm -f "$deb"
        fail "$deb was broken and is removed: run this again"
    }
}
