#!/usr/bin/env bash
# minio.sh start DIR PORT | stop DIR
# A real MinIO on loopback with the bucket `models` and two users beside root: `hubgate`, which may do what a
# gateway needs in that bucket and nothing else, and `workload`, which may only read below mirrors/hf/.
# Prints the endpoint and the gateway's keys as JSON. PORT+1 is MinIO's console.
set -euo pipefail
. "$(dirname "$0")/server.sh"
DIR=${2:?usage: minio.sh start DIR PORT | stop DIR}
if [ "$1" = stop ]; then stop "$DIR"; exit; fi
PORT=${3:?a port}
export MINIO_ROOT_USER=root-user MINIO_ROOT_PASSWORD=root-user-secret MINIO_UPDATE=off MINIO_BROWSER=off MINIO_CI_CD=1

launch "$DIR" "$CACHE/bin/minio" server "$DIR/data" --address "127.0.0.1:$PORT" --console-address "127.0.0.1:$((PORT + 1))"
ready "$DIR" curl -fsS "http://127.0.0.1:$PORT/minio/health/live"

mc() { "$CACHE/bin/mc" --config-dir "$DIR/mc" --quiet "$@" >> "$DIR/mc.log" 2>&1 || { tail -n 20 "$DIR/mc.log" >&2; stop "$DIR"; fail "mc $1 $2 failed"; }; }
cat > "$DIR/hubgate.json" <<'P'
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads", "s3:GetLifecycleConfiguration"],
   "Resource": ["arn:aws:s3:::models"]},
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
   "Resource": ["arn:aws:s3:::models/*"]}]}
P
cat > "$DIR/workload.json" <<'P'
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::models/mirrors/hf/*"]},
  {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::models"],
   "Condition": {"StringLike": {"s3:prefix": ["mirrors/hf/*"]}}}]}
P
mc alias set local "http://127.0.0.1:$PORT" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"
mc mb --ignore-existing local/models
for user in hubgate workload; do
  mc admin policy create local "$user" "$DIR/$user.json"
  mc admin user add local "$user" "$user-secret-key"
  mc admin policy attach local "$user" --user "$user"
done
echo "{\"endpoint\": \"http://127.0.0.1:$PORT\", \"bucket\": \"models\", \"access_key\": \"hubgate\", \"secret_key\": \"hubgate-secret-key\"}"
