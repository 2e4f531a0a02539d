#!/usr/bin/env bash
# stores.sh SERVER PORT: the store conformance suite against a real S3 server (minio | versitygw), started here.
# For MinIO also what the start-up probe says of its users, policies, rules and keys; a second one, at PORT+2, speaks
# https with a private authority.
set -euo pipefail
cd "$(dirname "$0")/../.."
SERVER=${1:?minio or versitygw}; PORT=${2:?a port}
DIR=$(mktemp -d)
trap 'tests/infra/"$SERVER".sh stop "$DIR" || true; tests/infra/"$SERVER".sh stop "$DIR/https" || true; rm -rf "$DIR"' EXIT
field() { python3 -c 'import json,sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$1" "$2"; }

SUITES=(store_conformance); OPTIONS=()
if [ "$SERVER" = minio ]; then
  SUITES+=(store_probe); OPTIONS=(setups)
  HTTPS=$(tests/infra/minio.sh start "$DIR/https" "$((PORT + 2))" https | tail -n 1)
  export HUBGATE_TEST_MINIO_DATA=$DIR/data HUBGATE_TEST_MINIO_HTTPS=$(field "$HTTPS" endpoint) HUBGATE_TEST_MINIO_CA_FILE=$(field "$HTTPS" ca_file)
fi
ANSWER=$(tests/infra/"$SERVER".sh start "$DIR" "$PORT" "${OPTIONS[@]}" | tail -n 1)
export HUBGATE_TEST_S3_REQUIRED=1
HUBGATE_TEST_S3_ENDPOINT=$(field "$ANSWER" endpoint) HUBGATE_TEST_S3_BUCKET=$(field "$ANSWER" bucket) \
HUBGATE_TEST_S3_ACCESS_KEY=$(field "$ANSWER" access_key) HUBGATE_TEST_S3_SECRET_KEY=$(field "$ANSWER" secret_key) \
  cargo test --locked --test it -- "${SUITES[@]}" --nocapture
