#!/usr/bin/env bash
# nginx.sh start DIR CONF PORT | stop DIR
# nginx with a given configuration, the peer of the benchmark. CONF may say @DIR@ and @PORT@.
set -euo pipefail
. "$(dirname "$0")/server.sh"
DIR=${2:?usage: nginx.sh start DIR CONF PORT | stop DIR}
if [ "$1" = stop ]; then stop "$DIR"; exit; fi
CONF=${3:?a configuration}; PORT=${4:?a port}

mkdir -p "$DIR/logs" "$DIR/tmp"
sed -e "s#@DIR@#$DIR#g" -e "s#@PORT@#$PORT#g" "$CONF" > "$DIR/nginx.conf"
nginx -p "$DIR" -c "$DIR/nginx.conf" -t > "$DIR/test.log" 2>&1 || { cat "$DIR/test.log" >&2; fail "its configuration is refused"; }
launch "$DIR" nginx -p "$DIR" -c "$DIR/nginx.conf" -g "daemon off;"
ready "$DIR" listening "$PORT"
