#!/bin/sh
# nginx as the gateway. Runs in the image of nginx, with its root file system read-only and without root.
#
#   gateway.sh run      writes the configuration and the tokens to /tmp, starts nginx, and follows what changes
#   gateway.sh check    whether nginx answers; for the container's health
#
# Read from the folder $GATEWAY_MOUNT (default /run/gateway):
#   server.pem  the certificate and those that lead to its authority     server.key  its private key
#   tokens      lines of `name token`; the name goes to the log, the token never does. One name may have several
set -eu
umask 077

mount=${GATEWAY_MOUNT:-/run/gateway}
here=$(dirname "$0")
export TRITON_HOST="${TRITON_HOST:-triton}" TRITON_HTTP_PORT="${TRITON_HTTP_PORT:-8000}" TRITON_GRPC_PORT="${TRITON_GRPC_PORT:-8001}"
export GATEWAY_WORKERS="${GATEWAY_WORKERS:-2}" GATEWAY_MAX_BODY="${GATEWAY_MAX_BODY:-72m}"
export GATEWAY_RATE="${GATEWAY_RATE:-500}" GATEWAY_BURST="${GATEWAY_BURST:-1000}" GATEWAY_CONCURRENT="${GATEWAY_CONCURRENT:-256}"
settings='${TRITON_HOST} ${TRITON_HTTP_PORT} ${TRITON_GRPC_PORT} ${GATEWAY_WORKERS} ${GATEWAY_MAX_BODY}
${GATEWAY_RATE} ${GATEWAY_BURST} ${GATEWAY_CONCURRENT} ${GATEWAY_MOUNT}'
export GATEWAY_MOUNT="$mount"

say() { echo "gateway: $*" >&2; }

# The tokens as nginx's map, whose plain texts would be compared without regard to case; \Q...\E takes them literally.
write_tokens() {
    awk '
        { sub(/\r$/, "") }
        /^[ \t]*(#|$)/ { next }
        NF != 2 || $1 !~ /^[A-Za-z0-9_.-]+$/ { print "gateway: tokens: line " NR " is not `name token`" > "/dev/stderr"; exit 1 }
        $2 !~ /^[A-Za-z0-9._~+\/=-]+$/ || length($2) < 24 || length($2) > 4096 {
            print "gateway: tokens: line " NR ": a token has 24 to 4096 characters of A-Z a-z 0-9 . _ ~ + / = -" > "/dev/stderr"; exit 1
        }
        { printf "\"~^(?i:bearer) \\Q%s\\E$\" \"%s\";\n", $2, $1; lines++ }
        END { if (!lines) exit 1 }
    ' "$mount/tokens" > /tmp/tokens.next && mv /tmp/tokens.next /tmp/tokens.map
}

# What nginx has read at its last start or reload: it resolves names then, and no more after that.
inputs() {
    { cat "$mount/tokens" "$mount/server.pem" "$mount/server.key"; getent hosts "$TRITON_HOST"; } 2>/dev/null | sha256sum
}

follow() {
    known=$1
    while sleep 5; do
        now=$(inputs)
        if [ "$now" = "$known" ] || ! getent hosts "$TRITON_HOST" > /dev/null; then continue; fi
        known=$now
        if write_tokens; then
            say "certificate, tokens or Triton's address have changed: reloading"
            nginx -c /tmp/nginx.conf -e stderr -s reload || true
        else
            say "the tokens cannot be used; those from before stay"
        fi
    done
}

run() {
    for file in server.pem server.key tokens; do
        if [ ! -r "$mount/$file" ]; then
            say "$mount/$file is not there, or uid $(id -u) may not read it; docs/operations.md says how to make it"
            exit 1
        fi
    done
    write_tokens || { say "$mount/tokens holds no token that can be used"; exit 1; }
    envsubst "$settings" < "$here/nginx.conf.template" > /tmp/nginx.conf
    follow "$(inputs)" &
    exec nginx -c /tmp/nginx.conf -e stderr -g 'daemon off;'
}

check() {
    url=http://127.0.0.1:8081/
    if command -v curl > /dev/null; then curl -fsS -m 3 -o /dev/null "$url"; else wget -q -T 3 -O /dev/null "$url"; fi
}

case ${1:-} in
    run | check) "$1" ;;
    *) say "say run or check"; exit 2 ;;
esac
