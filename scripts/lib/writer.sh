# Runs inside a container: bash -s -- SECONDS DATABASE HOST… <scripts/lib/writer.sh
# One client per host: inserts a row every 20 ms as long as that host takes it, over a connection
# of its own, and prints `TIME HOST ID` for each row whose commit was acknowledged. The union of
# what they print is what a client sees that always knows the writable node; two hosts that print
# at the same time are two primaries. Ends when /tmp/lab-writer.stop is there.
# PGPASSWORD, PGUSER as for psql.
set -uo pipefail
until=$((EPOCHSECONDS + $1))
database=$2
shift 2
rm -f /tmp/lab-writer.stop

going_on() { ((EPOCHSECONDS < until)) && [[ ! -e /tmp/lab-writer.stop ]]; }

write_to() { # HOST
    local host=$1 n=0 id reply ask='' pid to from
    while going_on; do
        # Statements that take longer than a client would wait are given up; so is the connection.
        coproc PSQL { exec psql -XAtq -h "$host" -p 5432 -d "$database" 2>&1; }
        # Bash forgets these as soon as psql ends, at whatever moment that is.
        pid=${PSQL_PID-} to=${PSQL[1]-} from=${PSQL[0]-}
        [[ $pid && $to && $from ]] || { sleep 0.05; continue; }
        while going_on; do
            if [[ $ask ]]; then # a standby is asked, so that its log is not filled with errors
                echo 'select pg_is_in_recovery();' >&"$to" || break
                read -r -t 2 reply <&"$from" || break
                [[ $reply == f ]] || { sleep 0.05; continue; }
                ask=''
            fi
            id=$host-$BASHPID-$((++n))
            echo "insert into lab_writes (id) values ('$id') returning id;" >&"$to" || break
            read -r -t 2 reply <&"$from" || break
            if [[ $reply == "$id" ]]; then
                printf '%s %s %s\n' "$EPOCHREALTIME" "$host" "$id"
            else
                ask=1
            fi
            sleep 0.02
        done 2>/dev/null
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
        sleep 0.05
    done
}

trap '' PIPE
for host; do write_to "$host" 2>/dev/null & done
wait
