#!/usr/bin/env bash
# render.sh [DIR]: the plain manifests, from the Helm chart with the values of deploy/helm/plain-manifests.yaml, into DIR
# (default: this folder). CI renders them again and fails where they differ.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
DIR=${1:-$HERE}
RENDERED=$(mktemp -d)
trap 'rm -rf "$RENDERED"' EXIT

helm template hubgate "$HERE/../helm/hubgate" --namespace hubgate --values "$HERE/../helm/plain-manifests.yaml" \
  --output-dir "$RENDERED" > /dev/null

rm -f "$DIR"/*.yaml
mkdir -p "$DIR"
for file in "$RENDERED"/hubgate/templates/*.yaml; do
  # No Helm stands behind these.
  sed -e '/^# Source: /d' -e '/helm\.sh\/chart: /d' -e '/managed-by: Helm$/d' -e '1{/^---$/d}' -e 's/ *$//' -e '${/^ *$/d}' "$file" > "$DIR/$(basename "$file")"
done
