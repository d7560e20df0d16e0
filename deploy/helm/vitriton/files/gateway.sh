#!/bin/sh
# nginx as the gateway. Runs in the image of nginx, with its root file system read-only and without root.
#
#   gateway.sh run      writes the configuration to /tmp, starts nginx, and follows the inputs
#   gateway.sh check    checks that nginx answers and the inputs are followed; for the container's health
#
# Three inputs are followed independently, and the last good version of each is kept:
#   tokens        $GATEWAY_MOUNT/tokens: lines of `name token`; the name goes to the log, the token never does. One name
#                 may have several
#   certificate   $GATEWAY_MOUNT/server.pem, the certificate and those that lead to its authority, and server.key
#   address       the IP addresses of $TRITON_HOST, and of $API_HOST if the endpoint is there
# nginx reads copies of them in /tmp, so that a reload for one input does not depend on the others.
set -eu
umask 077

mount=${GATEWAY_MOUNT:-/run/gateway}
here=$(dirname "$0")
live=/tmp/live # the configuration that nginx runs with, and a folder for each input
next=/tmp/next # the same with the current version of one input, to be tested
followed="tokens certificate address"
export GATEWAY_WORKERS="${GATEWAY_WORKERS:-2}" GATEWAY_MAX_BODY="${GATEWAY_MAX_BODY:-72m}" GATEWAY_MAX_JSON="${GATEWAY_MAX_JSON:-32k}"
export GATEWAY_RATE="${GATEWAY_RATE:-500}" GATEWAY_BURST="${GATEWAY_BURST:-1000}" GATEWAY_CONCURRENT="${GATEWAY_CONCURRENT:-256}"
settings='${GATEWAY_WORKERS} ${GATEWAY_MAX_BODY} ${GATEWAY_MAX_JSON} ${GATEWAY_RATE} ${GATEWAY_BURST} ${GATEWAY_CONCURRENT}'
triton=${TRITON_HOST:-triton}
api=${API_HOST:-api}

say() { echo "gateway: $*" >&2; }

# --- The inputs: each function writes the files of one to a folder, or says on standard output why it cannot. ---

# Regular expressions with \Q...\E, because an nginx map compares plain texts without regard to case.
make_tokens() {
    readable tokens || return 1
    awk -v map="$1/map" '
        { sub(/\r$/, "") }
        /^[ \t]*(#|$)/ { next }
        NF != 2 || $1 !~ /^[A-Za-z0-9_.-]+$/ { print "line " NR " is not `name token`: a name of A-Z a-z 0-9 . _ -, a space, and the token"; bad = 1; exit }
        $2 !~ /^[A-Za-z0-9._~+\/=-]+$/ || length($2) < 24 || length($2) > 4000 {
            print "line " NR ": a token has 24 to 4000 characters of A-Z a-z 0-9 . _ ~ + / = -; `openssl rand -hex 32` makes one"; bad = 1; exit
        }
        { printf "\"~^(?i:bearer) \\Q%s\\E$\" \"%s\";\n", $2, $1 > map; lines++ }
        END {
            if (!bad && !lines) print FILENAME " holds no token; write a line `name token` to it"
            if (!lines || bad) exit 1
        }
    ' "$mount/tokens"
}

make_certificate() {
    for file in server.pem server.key; do
        readable "$file" && cat "$mount/$file" > "$1/$file" || return 1
    done
}

make_address() {
    addresses=$(addresses_of "$triton")
    if [ -z "$addresses" ]; then echo "the name $triton does not resolve to an address; check that Triton runs, and the setting TRITON_HOST"; return 1; fi
    for address in $addresses; do
        echo "server $address:${TRITON_HTTP_PORT:-8000} max_fails=0;" >> "$1/http"
        echo "server $address:${TRITON_GRPC_PORT:-8001} max_fails=0;" >> "$1/grpc"
    done
    echo "server 127.0.0.1:8080 down;" > "$1/api" # nginx wants one; all that there is without the profile api
    for address in $(addresses_of "$api"); do
        echo "server $address:${API_PORT:-8080} max_fails=0;" >> "$1/api"
    done
}

addresses_of() {
    # Not every image has the first form; the second leaves out IPv4 if there is IPv6.
    { getent ahostsv4 "$1" || getent hosts "$1"; } 2> /dev/null | awk '{ print $1 }' | sort -u | sed 's/.*:.*/[&]/'
}

readable() {
    if [ -f "$mount/$1" ] && [ -r "$mount/$1" ]; then return; fi
    echo "$mount/$1 is missing, or the user with the id $(id -u) may not read it; docs/operations/gateway.md says how to make it"
    return 1
}

# --- Following the inputs ---

# Puts the current version of an input into the configuration to be tested; fails with the reason on standard output.
make() { rm -rf "$next/$1" && mkdir "$next/$1" && "make_$1" "$next/$1"; }

# Tests the configuration with nginx; fails with the reason on standard output.
try() {
    if problems=$(nginx -t -q -c $next/nginx.conf -e stderr 2>&1); then return; fi
    echo "$problems" | sed -n 's/.*\[emerg\] [0-9#]*: //p' | grep . || echo "nginx -t fails without a reason"
    return 1
}

# Takes over an input if it has changed, and nginx can use it with the earlier versions of the others. Fails if it cannot be
# used, and says so once for each reason.
take() {
    rm -rf $next && cp -R $live $next || return 1
    if ! why=$(make "$1" && { same "$1" || try; }); then
        if [ "$why" = "$(cat "/tmp/why.$1" 2> /dev/null)" ]; then return 1; fi
        echo "$why" > "/tmp/why.$1"
        say "$1: the new version cannot be used, so the gateway keeps the last good one: $why"
        return 1
    fi
    if ! same "$1"; then
        rm -rf "${live:?}/$1" && mv "$next/$1" "$live/$1" && touch /tmp/changed || return 1
        say "$1: the new version is in use"
    elif [ -e "/tmp/why.$1" ]; then
        say "$1: the last good version is back"
    fi
    rm -f "/tmp/why.$1"
}

same() { diff -r "$live/$1" "$next/$1" > /dev/null 2>&1; }

# Checks all three inputs. The time of the metrics file is the time of the last check.
look() {
    report=
    for input in $followed; do
        if take "$input"; then good=1; else good=0; fi
        report="${report}vitriton_gateway_input_good{input=\"$input\"} $good
"
    done
    if [ -e /tmp/changed ]; then
        rm /tmp/changed
        nginx -c $live/nginx.conf -e stderr -s reload || say "nginx could not be told to reload"
    fi
    {
        echo "# HELP vitriton_gateway_input_good Whether the input can be used as it is now; 0: the gateway uses the last good version."
        echo "# TYPE vitriton_gateway_input_good gauge"
        printf %s "$report"
    } > /tmp/metrics.next && mv /tmp/metrics.next /tmp/metrics
}

run() {
    mkdir -p $next
    for input in $followed; do
        why=$(make "$input") || { say "$input: $why"; exit 1; }
    done
    envsubst "$settings" < "$here/nginx.conf.template" > $next/nginx.conf
    why=$(try) || { say "nginx does not start with this configuration: $why"; exit 1; }
    rm -rf $live && mv $next $live
    look
    # Each check runs in a process of its own, so that a failure does not prevent the next one.
    while sleep 2; do (look) || say "the check of tokens, certificate and address failed; the next one is in 2 s"; done &
    exec nginx -c $live/nginx.conf -e stderr -g 'daemon off;'
}

check() {
    url=http://127.0.0.1:8081/
    if command -v curl > /dev/null; then curl -fsS -m 3 -o /dev/null "$url"; else wget -q -T 3 -O /dev/null "$url"; fi
    for input in $followed; do
        if [ -e "/tmp/why.$input" ]; then echo "$input: the gateway uses the last good version: $(cat "/tmp/why.$input")"; fi
    done
    if [ -n "$(find /tmp/metrics -mmin +1)" ]; then echo "the gateway has not checked tokens, certificate and address for more than a minute; restart it"; exit 1; fi
}

case ${1:-} in
    run | check) "$1" ;;
    *) say "usage: gateway.sh run | check"; exit 2 ;;
esac
