#!/usr/bin/env python3
"""Reads what hubgate tells a hook of a commit, writes a CycloneDX 1.6 SBOM of it. Needs nothing but Python 3.8.

The same commit gives the same bytes: no time, and a serial number made of the repo and the commit.
"""
import json
import sys
import uuid

TYPES = {"model": "machine-learning-model", "dataset": "data", "space": "application"}
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562: names that are URLs


def sbom(told):
    group, _, name = told["repo"].rpartition("/")
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}[told["kind"]]
    ref = f"{prefix}{told['repo']}@{told['commit']}"
    component = {
        "type": TYPES[told["kind"]],
        "bom-ref": ref,
        "group": group,
        "name": name,
        "version": told["commit"],
        # Names of licences, not SPDX ids: the Hub has ids of its own, and "other:...".
        "licenses": [{"license": {"name": license}} for license in told["license"].split(" AND ")],
        "properties": [
            {"name": f"hubgate:{key}", "value": str(told[key])}
            for key in ("revision", "rule", "approved_by", "ticket", "policy_sha256")
            if told.get(key)
        ],
    }
    if told["kind"] == "model":
        component["purl"] = f"pkg:huggingface/{told['repo']}@{told['commit']}"
    files = [
        {
            "type": "file",
            "bom-ref": f"{ref}#{file['path']}",
            "name": file["path"],
            "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
            "properties": [{"name": "hubgate:size", "value": str(file["size"])}],
        }
        for file in told["files"]
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(NAMESPACE, f"https://huggingface.co/{ref}").urn,
        "version": 1,
        "metadata": {"component": component},
        "components": files,
        "dependencies": [{"ref": ref, "dependsOn": [file["bom-ref"] for file in files]}],
    }


if __name__ == "__main__":
    json.dump(sbom(json.load(sys.stdin)), sys.stdout, indent=2)
    print()
