#!/usr/bin/env bash
# image.sh BINARY: what the Dockerfile promises, checked where there is no Docker engine: the binary runs in an
# empty root that has nothing but itself, the policy and the random devices of /dev (which every engine provides), as an ordinary
# user, with that root read-only.
set -euo pipefail
cd "$(dirname "$0")/../.."
BINARY=${1:?the static hubgate binary}
ROOT=$(mktemp -d)
cleanup() { [ -z "${PID:-}" ] || kill "$PID" 2>/dev/null || true; wait 2>/dev/null || true; umount "$ROOT/data" "$ROOT" 2>/dev/null || true; rm -rf "$ROOT"; }
trap cleanup EXIT

if readelf -l "$BINARY" | grep -q 'Requesting program interpreter'; then
  echo "image: $BINARY is not static" >&2; exit 1
fi
mount -t tmpfs image "$ROOT"
mkdir -p "$ROOT/etc/hubgate" "$ROOT/data" "$ROOT/dev"
mknod -m 666 "$ROOT/dev/random" c 1 8
mknod -m 666 "$ROOT/dev/urandom" c 1 9
cp "$BINARY" "$ROOT/hubgate"
cp -r policy "$ROOT/etc/hubgate/policy"
mount -t tmpfs -o uid=65532,gid=65532,mode=0700 data "$ROOT/data"
mount -o remount,ro "$ROOT"

# The environment of the Dockerfile, but for the port, and no other.
CHROOT=$(command -v chroot)
PORT=$((20000 + RANDOM % 20000))
INSIDE=(env -i HUBGATE_SERVER__LISTEN=127.0.0.1:$PORT HUBGATE_STORE__LOCAL__PATH=/data/store HUBGATE_SPOOL__DIR=/data/spool
  HUBGATE_POLICY__DIR=/etc/hubgate/policy "$CHROOT" --userspec=65532:65532 "$ROOT" /hubgate)
"${INSIDE[@]}" check-config > /dev/null
"${INSIDE[@]}" serve > "/tmp/image-$PORT.log" 2>&1 &
PID=$!
for _ in $(seq 100); do
  if "${INSIDE[@]}" healthcheck > /dev/null 2>&1; then HEALTHY=1; break; fi
  kill -0 "$PID" 2>/dev/null || break
  sleep 0.1
done
[ "${HEALTHY:-}" = 1 ] || { echo "image: not healthy; its log:" >&2; cat "/tmp/image-$PORT.log" >&2; exit 1; }
curl -fsS "http://127.0.0.1:$PORT/-/readyz"; echo
[ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$PORT/acme/secret/resolve/main/x")" = 403 ] || { echo "image: the policy is not in force" >&2; exit 1; }
"${INSIDE[@]}" verify
echo "image: runs in an empty, read-only root as 65532"
rm -f "/tmp/image-$PORT.log"
