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

fail() {
    echo "error: $1" >&2
    exit 2
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
program=$(command -v alertmanager || command -v prometheus-alertmanager) || fail "no alertmanager on the PATH"
exec "$program" --config.file="$dir/alertmanager.yml" --storage.path="$dir/data" "$@"
