#!/usr/bin/env bash
# readme.sh BINARY STANDIN: the README's own commands, as written there, from a folder that has nothing but the shipped policy. The Hub
# is the stand-in; `cargo run --release --` is the binary, and what builds or installs is left out by name.
set -euo pipefail
unset ${!HUBGATE_@} ${!HF_@} HTTP_PROXY HTTPS_PROXY http_proxy https_proxy
source "$(dirname "$0")/server.sh"
HUBGATE=$(realpath "${1:?the hubgate binary}") STANDIN=$(realpath "${2:?the hub-standin binary}")
HF=$(realpath "$CACHE/venv/hub240/bin/hf" 2>/dev/null || true)
[ -x "$HF" ] || fail "there is no hf in $CACHE/venv/hub240; tests/infra/install.sh python makes it"
WORK=$(mktemp -d)
trap 'stop "$WORK/serve"; stop "$WORK/hub"; rm -rf "$WORK"' EXIT

# commands SECTION: what a section has a reader type.
commands() { sed -n "/^## $1\$/,/^## /p" "$ROOT/README.md" | sed -n '/^```console/,/^```/s/^\$ //p'; }

mkdir -p "$WORK/bin" "$WORK/here" "$WORK/model" "$WORK/home"
ln -s "$HUBGATE" "$WORK/bin/hubgate"
ln -s "$HF" "$WORK/bin/hf"
cp -r "$ROOT/policy" "$WORK/here/"
echo '{"model_type": "bert"}' > "$WORK/model/config.json"
printf -- '---\nlicense: apache-2.0\n---\n' > "$WORK/model/README.md"
head -c 100000 /dev/urandom > "$WORK/model/model.safetensors"
launch "$WORK/hub" "$STANDIN" --repo "model:sentence-transformers/all-MiniLM-L6-v2=$WORK/model"
ready "$WORK/hub" grep -q '"hub"' "$WORK/hub/log"
HUB=$(sed -n 's/.*"hub":"\([^"]*\)".*/\1/p' "$WORK/hub/log")

! listening 8080 || fail "port 8080, which the README serves on, is taken"
cd "$WORK/here"
export PATH="$WORK/bin:$PATH" HOME="$WORK/home" HUBGATE_UPSTREAM__ENDPOINT="$HUB" HUBGATE_UPSTREAM__ALLOW_PRIVATE=true
export HF_HUB_DISABLE_UPDATE_CHECK=1
typed=0
# type_it COMMAND: runs it as a reader would.
type_it() {
  typed=$((typed + 1))
  echo "\$ $1"
  bash -euo pipefail -c "$1" > "$WORK/said" 2>&1 || { cat "$WORK/said" >&2; fail "the README's '$1' ends with an error"; }
}
for section in "Quick start" "Policy" "Proof"; do
  while IFS= read -r command; do
    case $command in
      "cargo run --release -- serve")
        launch "$WORK/serve" hubgate serve
        ready "$WORK/serve" hubgate healthcheck --ready ;;
      "export HF_ENDPOINT="*) export "${command#export }" ;;
      "pip install "*|"cargo run --release --example demo"|"cargo test --workspace") ;;
      *) type_it "$command" ;;
    esac
  done < <(commands "$section")
done
[ "$typed" -ge 6 ] || fail "only $typed commands were found in the README"
grep -q config.json "$WORK/here/manifest.csv" || fail "the manifest that the README exports does not name the file"
echo "readme: $typed commands do what the README says"
