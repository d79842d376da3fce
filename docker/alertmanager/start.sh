#!/bin/sh
# Starts Alertmanager with the receivers that the environment names: alertmanager.yml from beside
# this file, in which the lines of every variable that is set are uncommented and filled in.
#
#   ALERT_WEBHOOK_URL    gets everything as JSON
#   ALERT_SLACK_URL      an incoming webhook
#   ALERT_EMAIL_TO       with ALERT_EMAIL_FROM and ALERT_SMTP_HOST (host:port)
#   ALERT_PAGERDUTY_KEY  critical alerts only
#   ALERTMANAGER_RENDER_ONLY=1   prints the configuration and ends
#
# Arguments go to Alertmanager.
set -eu
umask 077 # it holds secrets

here=$(cd "$(dirname "$0")" && pwd)
dir=${ALERTMANAGER_DIR:-/tmp/alertmanager}

# A value that cannot work does not get better by trying again. Exit code 0 tells Docker's
# `restart: on-failure` to leave the container stopped, with this line as the last of its log.
fail() {
    echo "error: $1" >&2
    [ -n "${ALERTMANAGER_RENDER_ONLY-}" ] && exit 2
    exit 0
}

render() {
    edits='' known=''
    for name in ALERT_WEBHOOK_URL ALERT_SLACK_URL ALERT_EMAIL_TO ALERT_EMAIL_FROM ALERT_SMTP_HOST ALERT_PAGERDUTY_KEY; do
        eval "value=\${$name-}"
        [ -n "$value" ] || continue
        case $value in *[\"\\\|]* | *'
'*) fail "$name has a quote, a backslash, a bar or a line end in it" ;; esac
        value=$(printf '%s' "$value" | sed 's/&/\\\&/g')
        known="$known $name"
        edits="$edits;s|^#$name#||;s|@$name@|$value|g"
    done
    case " $known " in *' ALERT_EMAIL_TO '*)
        [ -n "${ALERT_EMAIL_FROM-}" ] && [ -n "${ALERT_SMTP_HOST-}" ] ||
            fail "ALERT_EMAIL_TO needs ALERT_EMAIL_FROM and ALERT_SMTP_HOST"
        ;;
    esac
    sed -e "${edits#;}" "$here/alertmanager.yml"
}

if [ -n "${ALERTMANAGER_RENDER_ONLY-}" ]; then
    render
    exit
fi
mkdir -p "$dir"
render >"$dir/alertmanager.yml"
if command -v amtool >/dev/null; then
    said=$(amtool check-config "$dir/alertmanager.yml" 2>&1) ||
        fail "Alertmanager cannot use an ALERT_* variable: $(printf '%s' "$said" | tr '\n' ' ')"
fi
program=$(command -v alertmanager || command -v prometheus-alertmanager) || {
    echo "error: no alertmanager on the PATH" >&2
    exit 8
}
exec "$program" --config.file="$dir/alertmanager.yml" --storage.path="$dir/data" "$@"
