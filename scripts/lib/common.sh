# Sourced by the scripts beside this folder: messages, time, waiting.

export LC_ALL=C.UTF-8 # a dot in EPOCHREALTIME, tools that speak English

JSON= # set by a command that was given --json

say() { printf '%s\n' "$*" >&2; }

json_text() { # TEXT: as a JSON string
    local text=$1
    text=${text//\\/\\\\} text=${text//\"/\\\"} text=${text//$'\n'/\\n} text=${text//$'\t'/\\t}
    printf '"%s"' "$text"
}

die() { # EXIT_CODE MESSAGE [HINT]: exit codes are those of pgctl
    if [[ $JSON ]]; then
        printf '{"error":{"code":%d,"message":%s,"hint":%s}}\n' \
            "$1" "$(json_text "$2")" "$(json_text "${3-}")" >&2
    else
        say "error: $2"
        [[ -z ${3-} ]] || say "hint: $3"
    fi
    exit "$1"
}

now_us() { printf '%s' "${EPOCHREALTIME/./}"; }

wait_for() { # SECONDS COMMAND…: until the command succeeds; fails when the time is over
    local until=$(($(now_us) + $1 * 1000000))
    shift
    until "$@"; do
        (($(now_us) < until)) || return 1
        sleep 0.05
    done
}
