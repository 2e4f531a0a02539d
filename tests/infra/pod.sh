#!/usr/bin/env bash
# pod.sh BINARY STANDIN: the static hubgate binary, run as the manifests of deploy/ say, where there is no Kubernetes:
# in an empty, read-only root, as a user id that nobody knows, with the volumes, variables and arguments of the pod;
# before a real MinIO with the bucket policy of deploy/compose, and behind a real squid with its squid.conf, which
# leads to the stand-in Hub. All of it in a network of its own, in which the names of the manifests lead to this
# machine and no packet leaves it.
set -euo pipefail
cd "$(dirname "$0")/../.."
BINARY=$(readlink -f "${1:?the static hubgate binary}")
STANDIN=$(readlink -f "${2:?the binary of the stand-in Hub}")
# Mounts, network and processes of our own: they end when this script does.
if [ "${3:-}" != inside ]; then
  exec unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$BINARY" "$STANDIN" inside
fi
. tests/infra/server.sh
PYTHON=$CACHE/venv/deploy/bin/python
WORK=$(mktemp -d)
trap 'rm -rf "$WORK" 2>/dev/null || true' EXIT
say() { echo "pod: $*"; }
# soon COMMAND...: it succeeds within 20 s.
soon() { for _ in $(seq 200); do "$@" && return; sleep 0.1; done; return 1; }

ip link set lo up
{
  echo "127.0.0.1 localhost"
  echo "127.0.0.1 minio.minio.svc egress-proxy.egress.svc"   # deploy/kubernetes
  echo "127.0.0.1 minio squid"                               # deploy/compose
  echo "127.0.0.1 huggingface.co example.com nothuggingface.co"
  echo "127.0.0.2 cdn-lfs.hf.co"
} > "$WORK/hosts"
mount --bind "$WORK/hosts" /etc/hosts

# lay POD-DIR PODPY-ARGS...: the container's root, made of nothing but the binary, the devices that every engine
# gives, and the pod's volumes. Then "${CONTAINER[@]}" COMMAND runs in it, as a user without a name, and ARGS are the
# pod's arguments.
lay() {
  local pod=$1 name path mode; shift
  "$PYTHON" tests/infra/pod.py "$@" --to "$pod"
  mkdir -p "$pod/root"
  mount -t tmpfs root "$pod/root"
  mkdir -p "$pod/root/dev" "$pod/root/etc"
  mknod -m 666 "$pod/root/dev/random" c 1 8
  mknod -m 666 "$pod/root/dev/urandom" c 1 9
  cp "$BINARY" "$pod/root/hubgate"
  cp "$WORK/hosts" "$pod/root/etc/hosts"
  # What the Dockerfile puts beside the binary.
  sed -n 's|^COPY --from=build \(/etc/[^ ]*\) .*|\1|p' Dockerfile | while read -r name; do
    mkdir -p "$pod/root$(dirname "$name")"; cp "$name" "$pod/root$name"
  done
  [ ! -e "$WORK/hub/ca.pem" ] || cp "$WORK/hub/ca.pem" "$pod/root/ca.pem"
  while read -r name path mode; do mkdir -p "$pod/root$path"; done < "$pod/mounts"
  mount -o remount,ro "$pod/root"
  while read -r name path mode; do
    mount --bind "$pod/volumes/$name" "$pod/root$path"
    mount -o "remount,bind,$mode" "$pod/root$path"
  done < "$pod/mounts"
  mapfile -t ARGS < "$pod/args"
  mapfile -t CONTAINER < "$pod/env"
  CONTAINER=(env -i "${CONTAINER[@]}" setpriv --no-new-privs "$(command -v chroot)" --userspec=1000730000:0 "$pod/root")
}

# known WHERE ARGS: hubgate has this command and these flags. What stands before --help is read first, so a flag that it
# doesn't know is an error.
known() {
  local where=$1; shift
  "$BINARY" "$@" --help > "$WORK/help" 2>&1 || { cat "$WORK/help" >&2; fail "$where: hubgate has no: $*"; }
}

# Every set of values: what the chart makes of it, hubgate takes.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hubgate -addext keyUsage=critical,keyCertSign,digitalSignature \
  -keyout "$WORK/tls.key" -out "$WORK/tls.crt" 2> "$WORK/openssl.log" || { cat "$WORK/openssl.log" >&2; exit 1; }
for values in deploy/helm/hubgate/ci/*-values.yaml; do
  set=$(basename "$values" -values.yaml)
  "$CACHE/bin/helm" template hubgate deploy/helm/hubgate --namespace hubgate --values "$values" > "$WORK/$set.yaml"
  for pod in $(grep -q '^kind: CronJob' "$WORK/$set.yaml" && echo CronJob/hubgate-sync) Deployment/hubgate; do
    dir=$WORK/$set-${pod%/*}
    lay "$dir" "$WORK/$set.yaml" --pod "$pod" \
      --secret hubgate-secrets s3-secret-key=hubgate-secret-key --secret hubgate-tls tls.crt=@"$WORK/tls.crt" tls.key=@"$WORK/tls.key" \
      --config-map company-ca ca.crt=@"$WORK/tls.crt" --config-map reviewed-policy repos.toml=@policy/repos.toml licenses.toml=@policy/licenses.toml
    "${CONTAINER[@]}" /hubgate check-config --config /etc/hubgate/config/config.toml > "$dir/checked" 2>&1 || { cat "$dir/checked" >&2; fail "$set: $pod: its configuration is refused"; }
    if ! "${CONTAINER[@]}" /hubgate policy check --config /etc/hubgate/config/config.toml > "$dir/policy" 2>&1; then
      # No rule at all is a policy too, and said to be one that denies everything.
      [ $set = minimal ] && grep -q 'nothing is allowed' "$dir/policy" || { cat "$dir/policy" >&2; fail "$set: $pod: its policy is refused"; }
    fi
    known "$set: $pod" "${ARGS[@]}"
    say "$set: $pod: its configuration, policy and arguments are taken"
  done
done

# The files of deploy/compose and deploy/systemd, likewise.
for place in compose systemd; do
  ENV=(HUBGATE_POLICY__DIR="$PWD/policy" HUBGATE_SPOOL__DIR="$WORK/spool" HUBGATE_STORE__S3__SECRET_KEY=hubgate-secret-key)
  env -i "${ENV[@]}" "$BINARY" check-config --config deploy/$place/config.toml > "$WORK/checked" 2>&1 || { cat "$WORK/checked" >&2; fail "deploy/$place/config.toml is refused"; }
  say "deploy/$place/config.toml is taken"
done
{ sed -n 's|^ExecStart=/usr/local/bin/hubgate ||p' deploy/systemd/*.service; sed -n 's|.*"$HUBGATE_IMAGE" \([^>]*\).*|\1|p' deploy/ci/sync.yml; } > "$WORK/commands"
while read -ra command; do known "the units and the workflow" "${command[@]}"; done < "$WORK/commands"
[ "$(wc -l < "$WORK/commands")" = 4 ] || { cat "$WORK/commands" >&2; fail "the units and the workflow have other commands than four"; }
say "hubgate has the commands of the units and the workflow: $(paste -sd';' "$WORK/commands")"

# squid with the shipped configuration, whose own places are ours here.
mount -t tmpfs log /var/log/squid && chown proxy: /var/log/squid
mount -t tmpfs run /run
launch "$WORK/squid" squid -N -f "$PWD/deploy/compose/squid.conf"
ready "$WORK/squid" listening 3128
through() { curl -sk -o /dev/null --max-time 20 --proxy http://127.0.0.1:3128 -w '%{http_connect}:%{http_code}' "$1" || true; }
for url in https://huggingface.co/ https://cdn-lfs.hf.co/; do
  # Nobody listens behind it here, and squid says so; it didn't refuse.
  [ "$(through "$url")" = 503:000 ] || fail "squid does not let $url through: $(through "$url")"
done
for url in https://example.com/ https://nothuggingface.co/ https://huggingface.co:22/; do
  [ "$(through "$url")" = 403:000 ] || fail "squid lets $url through: $(through "$url")"
done
[ "$(through http://huggingface.co/)" = 000:403 ] || fail "squid lets plain http through: $(through http://huggingface.co/)"
say "squid.conf lets TLS to the Hub's hosts through and nothing else"

# MinIO, with the bucket and the user that deploy/compose makes, twice as when it is started again.
tests/infra/minio.sh start "$WORK/minio" 9000 > /dev/null
mc() { "$CACHE/bin/mc" --config-dir "$WORK/minio/mc" --quiet "$@"; }
mc admin user remove local hubgate > /dev/null
mc admin policy remove local hubgate > /dev/null
mc rb --force local/models > /dev/null
for _ in first again; do
  env -i PATH="$CACHE/bin:$PATH" HOME="$WORK" MINIO_ROOT_USER=root-user MINIO_ROOT_PASSWORD=root-user-secret HUBGATE_S3_SECRET_KEY=hubgate-secret-key \
    sh deploy/compose/make-bucket.sh > "$WORK/made" 2>&1 || { cat "$WORK/made" >&2; fail "deploy/compose/make-bucket.sh fails"; }
done
say "make-bucket.sh makes the bucket and its user"

# The stand-in Hub at the real one's names, as far as squid and hubgate can tell.
mkdir "$WORK/hub"
launch "$WORK/hub" "$STANDIN" --fixtures --tls-dir "$WORK/hub" --listen 127.0.0.1:443 --hub-host huggingface.co --cdn-listen 127.0.0.2:443 --cdn-host cdn-lfs.hf.co
ready "$WORK/hub" grep -q '^{' "$WORK/hub/log"

# with_ca POD-DIR POD: a pod of the plain manifests. One variable more, since the stand-in can't have a public certificate.
with_ca() {
  lay "$1" deploy/kubernetes/*.yaml --pod "$2" --secret hubgate-secrets s3-secret-key=hubgate-secret-key \
    --config-map hubgate-policy $(for file in policy/*.toml; do echo "$(basename "$file")=@$file"; done)
  CONTAINER=("${CONTAINER[@]:0:2}" HUBGATE_UPSTREAM__CA_FILE=/ca.pem "${CONTAINER[@]:2}")
}

# The sync job, told what to fetch as sync.repos does.
pod=$WORK/sync
with_ca "$pod" CronJob/hubgate-sync
CONTAINER=("${CONTAINER[@]:0:2}" HF_REPOS=acme/nested "${CONTAINER[@]:2}")
printf '\n[[allow]]\nrepo = "acme/nested"\n' >> "$pod/volumes/policy/..data/repos.toml"
"${CONTAINER[@]}" /hubgate "${ARGS[@]}" > "$pod/said" 2> "$pod/log" || { cat "$pod/said" "$pod/log" >&2; fail "the sync job fails"; }
python3 -m json.tool "$pod/said" > /dev/null || { cat "$pod/said" >&2; fail "the sync job's report is no JSON"; }
grep -q '^acme/nested,.*,mit' "$pod/volumes/spool/manifest.csv" || { cat "$pod/said" "$pod/volumes/spool/manifest.csv" >&2; fail "the catalogue lacks what was fetched"; }
say "the sync job fetches into the bucket: $(wc -l < "$pod/volumes/spool/manifest.csv") lines of catalogue"

# The gateway.
pod=$WORK/pod
with_ca "$pod" Deployment/hubgate
# The stand-in's model, which the shipped policy doesn't name.
printf '\n[[allow]]\nrepo = "acme/tiny"\n' >> "$pod/volumes/policy/..data/repos.toml"
{ read -r scheme port ready_path; read -r scheme port live_path; } < "$pod/probes"
"${CONTAINER[@]}" /hubgate "${ARGS[@]}" > "$pod/log" 2>&1 &
PID=$!
asked() { curl -fs -o "$pod/ready" "$scheme://127.0.0.1:$port$ready_path" || ! kill -0 "$PID" 2>/dev/null; }
soon asked || true
[ -s "$pod/ready" ] || { cat "$pod/log" >&2; fail "the pod does not become ready"; }
curl -fsS "$scheme://127.0.0.1:$port$live_path" > /dev/null
say "ready: $(cat "$pod/ready")"
curl -fsS "$scheme://127.0.0.1:$port/-/metrics" | grep -q '^hubgate_' || fail "no metrics on the port of the probes"
"${CONTAINER[@]}" /hubgate healthcheck --ready --config /etc/hubgate/config/config.toml > /dev/null
mc ls local/models/hubgate/layout.json | grep -q layout.json || fail "the store was not begun below its prefix"

status() { curl -sL -o "$WORK/body" -w '%{http_code}' --max-time 20 "http://127.0.0.1:8080/$1"; }
WEIGHTS=acme/tiny/resolve/main/model.safetensors
[ "$(status acme/secret/resolve/main/x)" = 403 ] || fail "the policy is not in force"
[ "$(status $WEIGHTS)" = 200 ] || { tail -n 5 "$pod/log" >&2; fail "an allowed model is not served: $(cat "$WORK/body")"; }
sum=$(sha256sum < "$WORK/body" | cut -d' ' -f1)
mc ls --recursive local/models/hubgate/blobs/ | grep -q "$sum" || fail "the bucket has no blob of the weights' name"
stop "$WORK/hub"
for host in huggingface.co cdn-lfs.hf.co; do
  # squid logs a tunnel when it ends.
  soon grep -q "TCP_TUNNEL/200 .* CONNECT $host:443" /var/log/squid/access.log || fail "$host was not asked through the proxy"
done
[ "$(status $WEIGHTS)" = 200 ] || fail "with the Hub away, what is stored is not served"
[[ "$(status sentence-transformers/all-MiniLM-L6-v2/resolve/main/config.json)" = 50[23] ]] || fail "with the Hub away, a miss is no gateway's error"
"${CONTAINER[@]}" /hubgate verify --config /etc/hubgate/config/config.toml > "$pod/verify" 2>&1 || { cat "$pod/verify" >&2; fail "hubgate verify finds something"; }
[ "$(find "$pod/volumes/spool" -mindepth 1 -user 1000730000 | head -n 1)" ] || fail "the spool is not this user's"
say "denies, fetches through the proxy into the bucket, serves it with the Hub away, and writes into its volume alone"

! grep -q 'no native root CA' "$pod/log" || fail "the image lacks certificate authorities: a bucket with a public certificate can't be used"

# A ConfigMap that changes: the kubelet renames a link. No restart.
digest() { curl -fs "$scheme://127.0.0.1:$port$ready_path" | sed 's/.*"policy_sha256":"\([0-9a-f]*\)".*/\1/'; }
before=$(digest)
cp -a "$pod/volumes/policy/..2026_01_01" "$pod/volumes/policy/..2026_01_02"
printf '\n[[deny]]\nrepo = "gpt2"\nreason = "Withdrawn"\n' >> "$pod/volumes/policy/..2026_01_02/repos.toml"
ln -s ..2026_01_02 "$pod/volumes/policy/..data_tmp" && mv -T "$pod/volumes/policy/..data_tmp" "$pod/volumes/policy/..data"
changed() { [ "$(digest)" != "$before" ]; }
soon changed || fail "a changed policy is not noticed"
[ "$(status gpt2/resolve/main/config.json)" = 403 ] || fail "a changed policy is not in force"
say "a changed ConfigMap is in force without a restart"

kill -TERM "$PID"
status=0; timeout "$(cat "$pod/grace")" tail --pid="$PID" -f /dev/null; wait "$PID" || status=$?
[ "$status" = 0 ] || { tail -n 5 "$pod/log" >&2; fail "stopped, it ends with $status"; }
grep -q '"stopped"' "$pod/log" || { tail -n 5 "$pod/log" >&2; fail "stopped, it did not end in good order"; }
say "stops in good order"

# The init container of the workload that reads the bucket, with a key that may only read there.
"$PYTHON" - "$WORK" <<'P'
import pathlib, sys, yaml
work = pathlib.Path(sys.argv[1])
objects = {d["kind"]: d for d in yaml.safe_load_all(pathlib.Path("deploy/kubernetes/examples/bucket-reader.yaml").read_text())}
(work / "fetch_model.py").write_text(objects["ConfigMap"]["data"]["fetch_model.py"])
env = objects["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]["env"]
(work / "fetch.env").write_text("".join(f"{v['name']}={v['value']}\n" for v in env if "value" in v))
P
mapfile -t ENV < "$WORK/fetch.env"
fetch() { env -i "${ENV[@]}" AWS_ACCESS_KEY_ID=workload AWS_SECRET_ACCESS_KEY=workload-secret-key "$PYTHON" "$WORK/fetch_model.py" "$1"; }
at=local/models/mirrors/hf/sentence-transformers/all-MiniLM-L6-v2
mkdir -p "$WORK/model/1_Pooling"
printf '{}' > "$WORK/model/config.json"; head -c 3000000 /dev/urandom > "$WORK/model/model.safetensors"; printf '{}' > "$WORK/model/1_Pooling/config.json"
mc cp --recursive "$WORK/model/" "$at/" > /dev/null
if fetch "$WORK/none" > "$WORK/fetch.log" 2>&1; then fail "the workload takes a model without its marker"; fi
grep -q 'holds no whole commit now' "$WORK/fetch.log" || { cat "$WORK/fetch.log" >&2; fail "the workload does not say what is missing"; }
printf c9745ed1d9f207416be6d2e6f8de32d1f16199bf | mc pipe "$at/.hubgate-commit" > /dev/null
fetch "$WORK/fetched" > "$WORK/fetch.log" 2>&1 || { cat "$WORK/fetch.log" >&2; fail "the workload cannot fetch its model"; }
diff -r "$WORK/model" "$WORK/fetched" || fail "the workload has other files than the bucket"
say "the workload without hubgate fetches its model from the bucket, whole"
