#!/usr/bin/env bash
# minio.sh start DIR PORT [https] [setups] | stop DIR
# A real MinIO on loopback with the bucket `models` and two users beside root, with the policies that policy/bucket
# ships: `hubgate`, which keeps below hubgate/ and publishes below mirrors/hf/, and `workload`, which only reads the latter.
# Prints the endpoint and the gateway's keys as JSON. PORT+1 is MinIO's console.
#   https   speaks https, with a certificate of the authority DIR/ca.pem (`ca_file` in the JSON)
#   setups  has what a gateway's probe must judge: the users `reader`, who may only read, and `blind`, who may not see the
#           bucket's rules; the buckets `versioned` and `expiring` (a lifecycle rule); the key `hubgate-key` for
#           server-side encryption
set -euo pipefail
. "$(dirname "$0")/server.sh"
DIR=${2:?usage: minio.sh start DIR PORT [https] [setups] | stop DIR}
if [ "$1" = stop ]; then stop "$DIR"; exit; fi
PORT=${3:?a port}; shift 3
SCHEME=http; SETUPS=
for option in "$@"; do
  case $option in
    https)  SCHEME=https ;;
    setups) SETUPS=yes ;;
    *)      fail "no option '$option'; there are https, setups" ;;
  esac
done
export MINIO_ROOT_USER=root-user MINIO_ROOT_PASSWORD=root-user-secret MINIO_UPDATE=off MINIO_BROWSER=off MINIO_CI_CD=1
[ -z "$SETUPS" ] || export MINIO_KMS_SECRET_KEY="hubgate-key:$(head -c 32 /dev/zero | base64)"

URL=$SCHEME://127.0.0.1:$PORT
TLS=(); TRUST=(); CA_FIELD=
if [ "$SCHEME" = https ]; then
  mkdir -p "$DIR/certs"
  {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=store test CA" \
      -addext keyUsage=critical,keyCertSign -keyout "$DIR/ca.key" -out "$DIR/ca.pem" &&
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout "$DIR/certs/private.key" -out "$DIR/minio.csr" &&
    openssl x509 -req -in "$DIR/minio.csr" -CA "$DIR/ca.pem" -CAkey "$DIR/ca.key" -CAcreateserial -days 30 -out "$DIR/certs/public.crt" \
      -extfile <(printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n')
  } > "$DIR/openssl.log" 2>&1 || { cat "$DIR/openssl.log" >&2; fail "no certificate for https"; }
  TLS=(--certs-dir "$DIR/certs"); TRUST=(--insecure); CA_FIELD=", \"ca_file\": \"$DIR/ca.pem\""
fi

launch "$DIR" "$CACHE/bin/minio" server "$DIR/data" --address "127.0.0.1:$PORT" --console-address "127.0.0.1:$((PORT + 1))" "${TLS[@]}"
ready "$DIR" curl -fsS "${TRUST[@]}" "$URL/minio/health/live"

mc() { "$CACHE/bin/mc" --config-dir "$DIR/mc" "${TRUST[@]}" --quiet "$@" >> "$DIR/mc.log" 2>&1 || { tail -n 20 "$DIR/mc.log" >&2; stop "$DIR"; fail "mc $1 $2 failed"; }; }
cp "$ROOT"/policy/bucket/{hubgate,workload}.json "$DIR/"
cat > "$DIR/reader.json" <<'P'
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["arn:aws:s3:::models", "arn:aws:s3:::models/*"]}]}
P
cat > "$DIR/blind.json" <<'P'
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:PutObject", "s3:DeleteObject"],
   "Resource": ["arn:aws:s3:::models", "arn:aws:s3:::models/*"]}]}
P
mc alias set local "$URL" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"
mc mb --ignore-existing local/models
for user in hubgate workload ${SETUPS:+reader blind}; do
  mc admin policy create local "$user" "$DIR/$user.json"
  mc admin user add local "$user" "$user-secret-key"
  mc admin policy attach local "$user" --user "$user"
done
if [ -n "$SETUPS" ]; then
  mc mb --ignore-existing local/versioned local/expiring
  # hubgate's own policy, for these two buckets as well.
  sed 's|"arn:aws:s3:::models\(/*[^"]*\)"|"arn:aws:s3:::versioned\1", "arn:aws:s3:::expiring\1"|g' "$DIR/hubgate.json" > "$DIR/more.json"
  mc admin policy create local more "$DIR/more.json"
  mc admin policy attach local more --user hubgate
  mc version enable local/versioned
  mc ilm rule add --expire-days 30 local/expiring
fi
echo "{\"endpoint\": \"$URL\", \"bucket\": \"models\", \"access_key\": \"hubgate\", \"secret_key\": \"hubgate-secret-key\"$CA_FIELD}"
