#!/usr/bin/env bash
# deploy.sh: everything in deploy/, each held against a real tool: the chart by helm, what it makes and the plain
# manifests by Kubernetes's own schemas (its oldest and its newest that we name), the units by systemd, the workflow
# and the compose file by their schemas. Each tool is also shown something broken, which it has to find. How hubgate
# itself takes it all, pod.sh tries.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/infra/server.sh
export PATH=$CACHE/bin:$CACHE/venv/deploy/bin:$PATH PYTHONDONTWRITEBYTECODE=1
CHART=deploy/helm/hubgate
OLDEST=1.30
NEWEST=1.37
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

say() { echo "deploy: $*"; }

# accepts WHAT COMMAND...: it must end well.
accepts() {
  local what=$1; shift
  "$@" > "$WORK/said" 2>&1 || { cat "$WORK/said" >&2; fail "$what"; }
}

# refuses WHAT SAYING COMMAND...: it must not, and give this reason.
refuses() {
  local what=$1 reason=$2; shift 2
  if "$@" > "$WORK/said" 2>&1; then fail "$what is not found"; fi
  grep -qF -- "$reason" "$WORK/said" || { cat "$WORK/said" >&2; fail "$what is refused, but not with \"$reason\""; }
}

# The chart, with every set of values.
mkdir "$WORK/rendered"
for values in "$CHART"/ci/*-values.yaml deploy/helm/plain-manifests.yaml; do
  set=$(basename "$values" .yaml)
  accepts "helm lint: $set" helm lint --strict --quiet "$CHART" --values "$values"
  helm template hubgate "$CHART" --namespace hubgate --values "$values" > "$WORK/rendered/$set.yaml"
  accepts "NOTES.txt: $set" helm install hubgate "$CHART" --namespace hubgate --values "$values" --dry-run=client
  grep -q 'HF_ENDPOINT=http' "$WORK/said" || fail "NOTES.txt: $set: does not say what to set"
done
# The README's, with the README's files of policy.
sed -n '/^# my-values.yaml/,/^```/{/^```/!p}' "$CHART/README.md" > "$WORK/my-values.yaml"
grep -q bucket: "$WORK/my-values.yaml" || fail "the chart's README has no my-values.yaml"
accepts "the README's my-values.yaml" helm install hubgate "$CHART" --namespace hubgate --values "$WORK/my-values.yaml" --dry-run=client \
  --set-file 'policy.files.repos\.toml=policy/repos.toml' --set-file 'policy.files.licenses\.toml=policy/licenses.toml' \
  --set-file 'policy.files.files\.toml=policy/files.toml' --set-file 'policy.files.mirror\.toml=policy/mirror.toml'
grep -q 'repo = "gpt2"' "$WORK/said" || fail "the README's --set-file does not bring the policy in"
VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
grep -qx "appVersion: $VERSION" "$CHART/Chart.yaml" || fail "Chart.yaml: appVersion is not Cargo.toml's version, $VERSION"
say "helm takes the chart with all its sets of values"

# What can't work is refused, with the remedy.
template() { helm template hubgate "$CHART" --values "$CHART/ci/minimal-values.yaml" "$@"; }
accepts "the values that the next lines spoil" template
refuses "no image"                 "name your registry's image"              template --set image.repository=
refuses "no bucket"                "name the bucket"                         template --set config.store.s3.bucket=
refuses "no proxy"                 "name the egress proxy"                   template --set config.upstream.proxy=
refuses "a secret in the config"   "does not belong in a ConfigMap"          template --set config.upstream.token=hf_x
refuses "a local store"            "replicas share a bucket"                 template --set config.store.kind=local
refuses "a spool elsewhere"        "where it mounts the volume"              template --set config.spool.dir=/tmp
refuses "half a key pair"          "set both, or neither"                    template --set config.store.s3.access_key=hubgate
refuses "a secret that is nowhere" "is not in secret.values"                 template --set secret.keys.hfToken=hf-token
refuses "too short a grace"        "is too short"                            template --set terminationGracePeriodSeconds=120
refuses "no duration"              "write it in h, m and s"                  template --set config.server.drain_timeout=soon
refuses "no size"                  "write a whole number and a unit"         template --set config.spool.max_size=much
refuses "a proxy anywhere"         "an empty list would mean everywhere"     template --set-json networkPolicy.egressProxy.to=[]
refuses "a store anywhere"         "an empty list would mean everywhere"     template --set-json networkPolicy.s3.to=[]
refuses "clients anybody"          "an empty list would mean everybody"      template --set-json networkPolicy.clients=[]
refuses "a policy that is no TOML" "reads *.toml only"                       template --set 'policy.files.README\.md=x'
refuses "an unknown value"         "replicaCount"                            template --set replicaCount=3
refuses "a value of a wrong type"  "got string, want integer"                template --set-string replicas=two
refuses "no replicas"              "minimum"                                 template --set replicas=0
cp -r "$CHART" "$WORK/chart"
echo '{{ .Values.nowhere.at.all }}' >> "$WORK/chart/templates/service.yaml"
refuses "a broken template"        "nil pointer"                             helm lint --strict "$WORK/chart" --values "$CHART/ci/minimal-values.yaml"
say "what can't work is refused, with the remedy"

# The stop: the pod, the unit and the compose file give hubgate the time that its configuration asks for.
grace() { sed -n 's/^ *terminationGracePeriodSeconds: //p' "$WORK/rendered/$1.yaml" | sort -u; }
[ "$(grace minimal-values)" = 140 ] || fail "2m of drain, 5 s before and 15 s after are not 140 s but $(grace minimal-values)"
[ "$(grace full-values)" = 180 ] || fail "terminationGracePeriodSeconds: 180 is not taken"
stated() { sed -n "s/^ *$2\(: \|=\| = \)//p" "$1" | tr -d '" ' | sed 's/min/m/' | sort -u; }
agree() { [ "$(stated "$1" drain_timeout) $(stated "$2" "$3")" = "$4" ] || fail "$2: $3 ($(stated "$2" "$3")) and $1: drain_timeout ($(stated "$1" drain_timeout)) are not 15 s apart"; }
agree deploy/systemd/config.toml deploy/systemd/hubgate.service TimeoutStopSec "2m 2m15s"
agree deploy/systemd/config.toml deploy/systemd/hubgate-sync.service TimeoutStopSec "2m 2m15s"
agree deploy/compose/config.toml deploy/compose/compose.yaml stop_grace_period "30s 45s"
grep -q 'sizeLimit: 47940Mi' "$WORK/rendered/minimal-values.yaml" || fail "50GB of spool are not an emptyDir of 47940Mi"
say "the time to stop agrees everywhere"

# The plain manifests are what the chart makes.
mkdir "$WORK/plain"
deploy/kubernetes/render.sh "$WORK/plain"
same() { diff -ru --exclude=examples --exclude=render.sh "$1" "$WORK/plain"; }
accepts "deploy/kubernetes differs from the chart: run deploy/kubernetes/render.sh" same deploy/kubernetes
cp -r deploy/kubernetes "$WORK/drifted"; sed -i 's/replicas: 2/replicas: 1/' "$WORK/drifted/deployment.yaml"
refuses "a plain manifest that drifted" "replicas: 1" same "$WORK/drifted"
say "the plain manifests are what the chart makes"

# Kubernetes's schemas, strictly: no field that it doesn't know.
for version in $OLDEST $NEWEST; do
  accepts "Kubernetes $version" kubernetes-validate --strict -k "$version" "$WORK"/rendered/*.yaml deploy/kubernetes/*.yaml deploy/kubernetes/examples/*.yaml
done
sed 's/maxUnavailable: 0/maxUnavailabel: 0/' deploy/kubernetes/deployment.yaml > "$WORK/broken.yaml"
refuses "a field that Kubernetes has not" "maxUnavailabel" kubernetes-validate --strict -k "$NEWEST" "$WORK/broken.yaml"
sed 's/policyTypes: .*/policyTypes: Egress/' deploy/kubernetes/networkpolicy.yaml > "$WORK/broken.yaml"
refuses "a field of a wrong type" "policyTypes" kubernetes-validate --strict -k "$OLDEST" "$WORK/broken.yaml"
accepts "the examples and the manifests" python tests/infra/deploy_examples.py deploy/kubernetes
for spoil in 's/hubgate-client: "true"/hubgate-client: "yes"/' 's/hubgate.hubgate.svc:8080/hubgate.hubgate.svc:80/' 's/component: gateway/component: server/'; do
  rm -rf "$WORK/spoilt"; cp -r deploy/kubernetes "$WORK/spoilt"; sed -i "$spoil" "$WORK/spoilt/examples/hf-endpoint.yaml"
  refuses "an example that leads nowhere ($spoil)" "hf-endpoint.yaml" python tests/infra/deploy_examples.py "$WORK/spoilt"
done
say "Kubernetes $OLDEST and $NEWEST know every field, and the examples lead where the manifests are"

# systemd, with the binary where the units want it. It calls what it ignores a warning and ends well, so silence is
# asked for.
units() {
  unshare --mount bash -euc '
    mkdir "$1/bin"; printf "#!/bin/sh\n" > "$1/bin/hubgate"; chmod +x "$1/bin/hubgate"; mount --bind "$1/bin" /usr/local/bin
    systemd-analyze verify "$1"/hubgate.service "$1"/hubgate-sync.service "$1"/hubgate-sync.timer > "$1/said" 2>&1 || echo "it ends with $?" >> "$1/said"
    cat "$1/said"; [ ! -s "$1/said" ]' units "$1"
}
# laid DIR [SED-EXPRESSION]: the units as installed, with the drop-in, maybe spoilt.
laid() {
  mkdir -p "$1/hubgate.service.d" "$1/hubgate-sync.service.d"
  cp deploy/systemd/*.service deploy/systemd/*.timer "$1"
  # All of it, also what is commented out.
  sed 's/^#\(LoadCredential\|Environment\)/\1/' deploy/systemd/credentials.conf | tee "$1/hubgate.service.d/credentials.conf" > "$1/hubgate-sync.service.d/credentials.conf"
  [ -z "${2:-}" ] || sed -i "$2" "$1"/*.service "$1"/*.timer "$1"/*.d/*.conf
}
laid "$WORK/units"
accepts "systemd-analyze verify" units "$WORK/units"
laid "$WORK/units-key" 's/^RestartSec=/RestratSec=/';        refuses "a key that systemd has not" "RestratSec" units "$WORK/units-key"
laid "$WORK/units-value" 's/=strict/=strickt/';              refuses "a value that systemd has not" "strickt" units "$WORK/units-value"
laid "$WORK/units-time" 's/^OnCalendar=.*/OnCalendar=night/'; refuses "a time that is none" "night" units "$WORK/units-time"
laid "$WORK/units-path" 's|/usr/local/bin/hubgate|/usr/bin/hubgate|'; refuses "a binary that is not there" "/usr/bin/hubgate" units "$WORK/units-path"
laid "$WORK/units-secret" 's/^LoadCredential=/LoadCredentail=/'; refuses "a broken drop-in" "LoadCredentail" units "$WORK/units-secret"
for unit in hubgate hubgate-sync; do
  accepts "$unit.service is open wider than it was" systemd-analyze security --offline=yes --threshold=15 --no-pager "deploy/systemd/$unit.service"
done
sed '/^Protect\|^Private\|^Capability/d' deploy/systemd/hubgate.service > "$WORK/hubgate.service"
refuses "a unit without its sandbox" "hubgate.service" systemd-analyze security --offline=yes --threshold=15 --no-pager "$WORK/hubgate.service"
# What both have in common is written twice.
sandbox() { sed -n '/^DynamicUser/,/^\[Install\]/{/^[A-Z]/p}' "$1"; }
same_sandbox() { diff <(sandbox deploy/systemd/hubgate.service) <(sandbox "$1"); }
accepts "the two services differ in user, directories or sandbox" same_sandbox deploy/systemd/hubgate-sync.service
sed '/^PrivateUsers/d' deploy/systemd/hubgate-sync.service > "$WORK/hubgate-sync.service"
refuses "a sandbox that differs" "PrivateUsers" same_sandbox "$WORK/hubgate-sync.service"
say "systemd takes the units, and finds them shut"

# The workflow and the compose file.
workflow() { check-jsonschema --builtin-schema vendor.github-workflows "$1" && check-jsonschema --builtin-schema custom.github-workflows-require-timeout "$1"; }
compose() { check-jsonschema --builtin-schema vendor.compose-spec "$1"; }
accepts "the workflow" workflow deploy/ci/sync.yml
accepts "the compose file" compose deploy/compose/compose.yaml
sed 's/runs-on:/runs-at:/' deploy/ci/sync.yml > "$WORK/sync.yml";              refuses "a job that runs nowhere" "runs-at" workflow "$WORK/sync.yml"
sed '/timeout-minutes/d' deploy/ci/sync.yml > "$WORK/sync.yml";                refuses "a job without end" "timeout-minutes" workflow "$WORK/sync.yml"
sed 's/read_only: true/read_only: [true]/' deploy/compose/compose.yaml > "$WORK/compose.yaml"; refuses "a value of a wrong type" "read_only" compose "$WORK/compose.yaml"
sed 's/cap_drop/cap_dorp/' deploy/compose/compose.yaml > "$WORK/compose.yaml"; refuses "a key that compose has not" "cap_dorp" compose "$WORK/compose.yaml"
sh -n deploy/compose/make-bucket.sh
say "the workflow and the compose file fit their schemas"
