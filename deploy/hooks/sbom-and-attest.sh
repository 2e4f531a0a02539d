#!/bin/sh
# sbom-and-attest.sh FOLDER KEY: for hubgate's hooks.commit_complete. Keeps what hubgate tells of a commit, an SBOM made
# from it, and cosign's signed attestation that the SBOM is of that commit, in FOLDER/<kind>s/<repo>/<commit>/.
#
# KEY is cosign's private key (`cosign generate-key-pair`); its password is read from KEY.password, if there is such a
# file, since a hook's environment is empty. Nothing is sent anywhere. Needs cosign 3 and Python 3.8.
set -eu
FOLDER=${1:?a folder for what is made} KEY=${2:?the private key of cosign}
HERE=$(dirname "$0")
WORK=$(mktemp -d "$FOLDER/.commit.XXXXXX")
trap 'rm -rf "$WORK"' EXIT
chmod 755 "$WORK"

cat > "$WORK/commit.json"
PLACE=$(python3 -c 'import json,sys; t=json.load(open(sys.argv[1])); print("%ss/%s/%s" % (t["kind"], t["repo"], t["commit"]))' "$WORK/commit.json")
python3 "$HERE/sbom.py" < "$WORK/commit.json" > "$WORK/sbom.cdx.json"

COSIGN_PASSWORD=
[ ! -r "$KEY.password" ] || COSIGN_PASSWORD=$(cat "$KEY.password")
export COSIGN_PASSWORD HOME="$WORK"
cosign attest-blob --yes --key "$KEY" --type cyclonedx --predicate "$WORK/sbom.cdx.json" \
  --use-signing-config=false --tlog-upload=false --bundle "$WORK/attestation.json" "$WORK/commit.json" > /dev/null

# Whole or not at all; a later run replaces it.
mkdir -p "$FOLDER/$PLACE"
mv "$WORK/commit.json" "$WORK/sbom.cdx.json" "$WORK/attestation.json" "$FOLDER/$PLACE/"
echo "$PLACE: SBOM sha256 $(sha256sum "$FOLDER/$PLACE/sbom.cdx.json" | cut -d' ' -f1), attested"
