#!/usr/bin/env bash
# versitygw.sh start DIR PORT | stop DIR
# VersityGW over a directory: a second S3 server, so that "any S3" is more than a word. Prints JSON like minio.sh.
set -euo pipefail
. "$(dirname "$0")/server.sh"
DIR=${2:?usage: versitygw.sh start DIR PORT | stop DIR}
if [ "$1" = stop ]; then stop "$DIR"; exit; fi
PORT=${3:?a port}
export ROOT_ACCESS_KEY=hubgate ROOT_SECRET_KEY=hubgate-secret-key

mkdir -p "$DIR/data/models"   # a folder at its root is a bucket
launch "$DIR" "$CACHE/bin/versitygw" --port "127.0.0.1:$PORT" --health /healthz posix "$DIR/data"
ready "$DIR" curl -fsS "http://127.0.0.1:$PORT/healthz"
echo "{\"endpoint\": \"http://127.0.0.1:$PORT\", \"bucket\": \"models\", \"access_key\": \"hubgate\", \"secret_key\": \"hubgate-secret-key\"}"
