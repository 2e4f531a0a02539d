#!/usr/bin/env bash
# squid.sh start DIR PORT UPSTREAM_PORT... | stop DIR
# Squid as a company's egress proxy on loopback: basic auth (user `egress`, password `egress-secret`) for
# CONNECT and plain http alike, to the upstream ports only. PORT is its http:// listener, PORT+1 its https://
# one, with a certificate of the authority DIR/proxy-ca.pem. The names hub.test and cdn.hub.test lead to 127.0.0.1,
# as only the proxy's own resolver knows. Every request is a line of DIR/access.log.
set -euo pipefail
umask 022
. "$(dirname "$0")/server.sh"
DIR=${2:?usage: squid.sh start DIR PORT UPSTREAM_PORT... | stop DIR}
if [ "$1" = stop ]; then stop "$DIR"; exit; fi
PORT=${3:?a port}; shift 3
[ $# -gt 0 ] || fail "name the ports that may be reached"

mkdir -p "$DIR/spool"
printf 'egress:%s\n' "$(openssl passwd -apr1 egress-secret)" > "$DIR/passwd"
printf '127.0.0.1 hub.test cdn.hub.test\n' > "$DIR/hosts"
{
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=egress proxy test CA" \
    -addext keyUsage=critical,keyCertSign -keyout "$DIR/ca.key" -out "$DIR/proxy-ca.pem" &&
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout "$DIR/proxy.key" -out "$DIR/proxy.csr" &&
  openssl x509 -req -in "$DIR/proxy.csr" -CA "$DIR/proxy-ca.pem" -CAkey "$DIR/ca.key" -CAcreateserial -days 30 -out "$DIR/proxy.crt" \
    -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n')
} > "$DIR/openssl.log" 2>&1 || { cat "$DIR/openssl.log" >&2; fail "no certificate for the https listener"; }
cat "$DIR/proxy.crt" "$DIR/proxy.key" > "$DIR/proxy.pem"
cat > "$DIR/squid.conf" <<C
visible_hostname squid.test
http_port 127.0.0.1:$PORT
https_port 127.0.0.1:$((PORT + 1)) tls-cert=$DIR/proxy.pem
hosts_file $DIR/hosts
auth_param basic program /usr/lib/squid/basic_ncsa_auth $DIR/passwd
auth_param basic children 2 startup=1 idle=1
auth_param basic realm egress
acl known proxy_auth REQUIRED
acl upstream port $*
http_access deny !upstream
http_access allow known
http_access deny all
cache deny all
access_log stdio:$DIR/access.log
cache_log $DIR/cache.log
pid_filename none
coredump_dir $DIR/spool
shutdown_lifetime 1 seconds
connect_timeout 5 seconds
buffered_logs off
cache_effective_user proxy
logfile_rotate 0
pinger_enable off
C
: > "$DIR/access.log"
chown -R proxy: "$DIR"
squid -f "$DIR/squid.conf" -k parse > "$DIR/parse.log" 2>&1 || { tail -n 10 "$DIR/parse.log" >&2; fail "its configuration is refused"; }
launch "$DIR" squid -N -f "$DIR/squid.conf"
ready "$DIR" listening "$PORT"
ready "$DIR" listening "$((PORT + 1))"
