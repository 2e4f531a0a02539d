#!/usr/bin/env bash
# stores.sh SERVER PORT: the store conformance suite against a real S3 server (minio | versitygw), started here.
set -euo pipefail
cd "$(dirname "$0")/../.."
SERVER=${1:?minio or versitygw}; PORT=${2:?a port}
DIR=$(mktemp -d)
trap 'tests/infra/"$SERVER".sh stop "$DIR" || true; rm -rf "$DIR"' EXIT
ANSWER=$(tests/infra/"$SERVER".sh start "$DIR" "$PORT" | tail -n 1)
field() { python3 -c 'import json,sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$ANSWER" "$1"; }
export HUBGATE_TEST_S3_REQUIRED=1
HUBGATE_TEST_S3_ENDPOINT=$(field endpoint) HUBGATE_TEST_S3_BUCKET=$(field bucket) \
HUBGATE_TEST_S3_ACCESS_KEY=$(field access_key) HUBGATE_TEST_S3_SECRET_KEY=$(field secret_key) \
  cargo test --locked --test it store_conformance -- --nocapture
