#!/bin/sh
# verify.sh FOLDER PUBLIC_KEY: checks that FOLDER/sbom.cdx.json is what was attested for FOLDER/commit.json, offline.
set -eu
FOLDER=${1:?the folder of a commit} KEY=${2:?the public key of cosign}
cosign verify-blob-attestation --key "$KEY" --type cyclonedx --bundle "$FOLDER/attestation.json" \
  --insecure-ignore-tlog=true "$FOLDER/commit.json"
# cosign says whose statement it is; that the SBOM beside it is the stated one is for us to see.
python3 - "$FOLDER" <<'P'
import base64, json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
bundle = json.loads((folder / "attestation.json").read_text())
statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
if statement["predicate"] != json.loads((folder / "sbom.cdx.json").read_text()):
    sys.exit("sbom.cdx.json is not the one that was attested")
print("sbom.cdx.json is the one that was attested")
P
