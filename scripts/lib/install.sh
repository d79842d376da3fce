# Sourced: what the scripts need of the system, and how to get it on Debian and Ubuntu.

CREATECLUSTER=/etc/postgresql-common/createcluster.conf

pg_bin_dir() { # the folder of the server that the keepers will use, newest first
    local dir
    for dir in ${PGVIGIL_PG_BIN:+"$PGVIGIL_PG_BIN"} \
        $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) /usr/local/pgsql/bin /usr/bin; do
        if [[ -x $dir/postgres && -x $dir/initdb ]]; then
            printf '%s' "$dir"
            return
        fi
    done
    return 1
}

psql_path() {
    local dir
    type -P psql && return
    dir=$(pg_bin_dir) && [[ -x $dir/psql ]] && printf '%s' "$dir/psql"
}

missing_packages() { # prints the packages for what is not there
    local packages=()
    pg_bin_dir >/dev/null || packages+=(postgresql)
    psql_path >/dev/null || packages+=(postgresql-client)
    if [[ -z ${PGVIGIL_BIN_DIR-} ]]; then # something is to be compiled
        type -P cc >/dev/null || packages+=(gcc)
        [[ -e /usr/include/stdio.h ]] || packages+=(libc6-dev)
        [[ -e /etc/ssl/certs/ca-certificates.crt ]] || packages+=(ca-certificates)
    fi
    packages+=("$@")
    printf '%s' "${packages[*]-}"
}

install_missing() { # [PACKAGE…]: these too, for what the caller found missing itself
    local packages sudo=() log steps
    packages=$(missing_packages "$@")
    [[ $packages ]] || return 0
    type -P apt-get >/dev/null ||
        die 8 "missing on this machine: $packages" "install PostgreSQL 13 or later and a C compiler"
    if ((EUID != 0)); then
        if type -P sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
            sudo=(sudo)
        else
            steps="apt-get update && apt-get install -y --no-install-recommends $packages"
            # Else Debian's package would start a cluster of its own on port 5432.
            [[ $packages != *postgresql* || -e $CREATECLUSTER ]] ||
                steps="mkdir -p ${CREATECLUSTER%/*} && echo create_main_cluster=false >$CREATECLUSTER && $steps"
            die 8 "missing on this machine: $packages; as root run: $steps"
        fi
    fi
    say "installing $packages"
    [[ $packages != *postgresql* ]] || no_default_cluster "${sudo[@]}"
    log=$(mktemp)
    "${sudo[@]}" apt-get update -q >"$log" 2>&1 || say "apt-get update failed, trying with the old lists"
    # shellcheck disable=SC2086 # a list of names
    if ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -q \
        --no-install-recommends -o DPkg::Lock::Timeout=120 $packages >>"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die 8 "apt-get could not install: $packages"
    fi
    rm -f "$log"
    packages=$(missing_packages)
    [[ -z $packages ]] || die 8 "still missing after the installation: $packages"
}

no_default_cluster() { # [sudo]: Debian's package shall not make a cluster; other settings stay
    grep -qsE '^[[:space:]]*create_main_cluster' "$CREATECLUSTER" && return
    "$@" mkdir -p "${CREATECLUSTER%/*}"
    printf '%s\n' '# No cluster is made and started when a server package is installed.' \
        'create_main_cluster = false' | "$@" tee -a "$CREATECLUSTER" >/dev/null
}

find_cargo() { # puts cargo on the PATH
    type -P cargo >/dev/null && return
    [[ -x ${CARGO_HOME:-$HOME/.cargo}/bin/cargo ]] ||
        die 8 "cargo is not on the PATH" "install Rust 1.95 or later"
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

target_dir() { # where cargo builds
    cargo metadata --no-deps --locked --format-version 1 --manifest-path "$ROOT/Cargo.toml" |
        grep -oE '"target_directory":"[^"]*"' | cut -d'"' -f4
}

build_binaries() { # DIR: builds the release binaries and puts them there, each by a rename
    find_cargo
    cargo build --release --locked --manifest-path "$ROOT/Cargo.toml" \
        -p vigil-monitor -p vigil-keeper -p pgctl -p vigil-exporter >&2 || die 1 "the build failed"
    copy_binaries "$(target_dir)/release" "$1"
}

copy_binaries() { # FROM TO: programs that run keep their old file
    local name
    mkdir -p "$2"
    for name in vigil-monitor vigil-keeper pgctl vigil-exporter; do
        # The lab itself does without it.
        [[ $name != vigil-exporter || -x $1/$name ]] || continue
        [[ -x $1/$name ]] || die 8 "no program $1/$name"
        cmp -s "$1/$name" "$2/$name" && continue
        cp "$1/$name" "$2/.$name.$$"
        chmod 755 "$2/.$name.$$"
        mv -f "$2/.$name.$$" "$2/$name"
    done
}
