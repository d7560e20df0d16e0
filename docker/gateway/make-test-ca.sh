#!/bin/sh
# Makes the files that the gateway mounts, for a trial: a certificate of an authority that nobody else trusts, and a token.
#
#   make-test-ca.sh FOLDER [NAME]...
#
# NAME: a host name or an address by which clients reach the gateway; localhost and 127.0.0.1 are always included. Files:
#   ca.pem      for clients (TLS(ca_file=...))             server.pem, server.key   for the gateway
#   tokens      lines of `name token`, for the gateway     token                    the token alone, for a client
# Only the user $OWNER may read the secret files: the user that the gateway runs as (GATEWAY_USER in .env). The default is the
# user who runs this script, or 1000:1000 for root. The authority's key is not kept. For production, replace server.pem
# and server.key by a real certificate.
set -eu
umask 077

folder=${1:?name the folder for the files: make-test-ca.sh FOLDER [NAME]...}
shift
if [ "$(id -u)" = 0 ]; then owner=${OWNER:-1000:1000}; else owner=${OWNER:-$(id -u):$(id -g)}; fi
mkdir -p "$folder"
for file in ca.pem server.pem server.key tokens token; do
    if [ -e "$folder/$file" ]; then echo "$folder/$file exists already; remove it, or name another folder" >&2; exit 1; fi
done
names="DNS:localhost,IP:127.0.0.1"
for name in "$@"; do
    case $name in
        *[!0-9.]*) case $name in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
        *) kind=IP ;;
    esac
    names="$names,$kind:$name"
done

work=$(mktemp -d "$folder/.making.XXXXXX")
trap 'rm -rf "$work"' EXIT
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
# shellcheck disable=SC2086 # several words
openssl req -x509 $key -keyout "$work/ca.key" -out "$work/ca.pem" -subj "/CN=vitriton test authority" -days 90 \
    -addext "keyUsage=critical,keyCertSign,cRLSign" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
# shellcheck disable=SC2086
openssl req $key -keyout "$work/server.key" -out "$work/server.csr" -subj "/CN=vitriton gateway" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" > "$work/extensions"
openssl x509 -req -in "$work/server.csr" -out "$work/server.pem" -days 90 -extfile "$work/extensions" \
    -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
token=$(openssl rand -hex 32)
printf '%s' "$token" > "$work/token"
printf '# name token\ntest %s\n' "$token" > "$work/tokens"
chmod 644 "$work/ca.pem" "$work/server.pem"
chmod 600 "$work/server.key" "$work/tokens" "$work/token"
chmod 755 "$folder"
if [ "$(id -u)" = 0 ]; then chown "$owner" "$work/server.key" "$work/tokens" "$work/token"; fi
for file in ca.pem server.pem server.key tokens token; do mv "$work/$file" "$folder/$file"; done
echo "$folder: made for $names, to be read by $owner"
