"""pod.py MANIFEST... --pod Deployment/NAME --to DIR [--secret NAME KEY=VALUE ...]

Lays out what a kubelet would give the first container of a pod, from the manifests alone:

  DIR/volumes/NAME/    each volume; ConfigMaps and Secrets as the kubelet writes them, behind a link `..data`
  DIR/mounts           name, path in the container, ro or rw
  DIR/env              the image's variables (the Dockerfile's ENV), then the container's, which win
  DIR/args             one a line
  DIR/probes           readiness and liveness: scheme, port and path
  DIR/grace            terminationGracePeriodSeconds
"""

import argparse
import pathlib
import re

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOT_FILES = {"emptyDir", "ephemeral"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("manifests", nargs="+", type=pathlib.Path)
    parser.add_argument("--pod", required=True)
    parser.add_argument("--to", required=True, type=pathlib.Path)
    parser.add_argument("--secret", nargs="+", action="append", default=[], help="what no manifest has")
    parser.add_argument("--config-map", nargs="+", action="append", default=[], help="KEY=@FILE reads a file")
    args = parser.parse_args()

    objects = {}
    for path in args.manifests:
        for document in yaml.safe_load_all(path.read_text()):
            if document:
                objects[document["kind"], document["metadata"]["name"]] = document
    for kind, given in (("Secret", args.secret), ("ConfigMap", args.config_map)):
        for name, *pairs in given:
            objects[kind, name] = {"data": dict(read(pair) for pair in pairs)}

    kind, name = args.pod.split("/")
    spec = objects[kind, name]["spec"]
    spec = spec["jobTemplate"]["spec"] if kind == "CronJob" else spec
    pod = spec["template"]["spec"]
    container = pod["containers"][0]
    args.to.mkdir(parents=True)

    for volume in pod["volumes"]:
        write_volume(args.to / "volumes" / volume["name"], volume, objects)
    (args.to / "mounts").write_text(
        "".join(f"{m['name']} {m['mountPath']} {'ro' if m.get('readOnly') else 'rw'}\n" for m in container["volumeMounts"])
    )
    env = image_env() | {variable["name"]: value_of(variable, objects) for variable in container.get("env", [])}
    (args.to / "env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    (args.to / "args").write_text("".join(f"{arg}\n" for arg in container["args"]))
    (args.to / "grace").write_text(f"{pod['terminationGracePeriodSeconds']}\n")
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    probes = [container[f"{probe}Probe"]["httpGet"] for probe in ("readiness", "liveness") if ports]
    (args.to / "probes").write_text(
        "".join(f"{p.get('scheme', 'HTTP').lower()} {ports[p['port']]} {p['path']}\n" for p in probes)
    )


def read(pair):
    key, value = pair.split("=", 1)
    return key, pathlib.Path(value[1:]).read_text() if value.startswith("@") else value


def write_volume(folder, volume, objects):
    folder.mkdir(parents=True)
    (sort,) = set(volume) - {"name"}
    if sort in NOT_FILES:
        folder.chmod(0o777)
        return
    source = volume[sort]
    name = source["secretName"] if sort == "secret" else source["name"]
    object_ = objects["Secret" if sort == "secret" else "ConfigMap", name]
    data = (object_.get("data") or {}) | object_.get("stringData", {})
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    dated = folder / "..2026_01_01"
    dated.mkdir()
    (folder / "..data").symlink_to(dated.name)
    for item in items:
        file = dated / item["path"]
        file.write_text(data[item["key"]])
        file.chmod(source["defaultMode"])
        (folder / item["path"]).symlink_to(f"..data/{item['path']}")


def value_of(variable, objects):
    if "value" in variable:
        return variable["value"]
    reference = variable["valueFrom"]["secretKeyRef"]
    secret = objects["Secret", reference["name"]]
    return ((secret.get("data") or {}) | secret.get("stringData", {}))[reference["key"]]


def image_env():
    """The ENV of the Dockerfile's last stage."""
    last = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2].replace("\\\n", " ")
    return dict(re.findall(r"(HUBGATE_\w+)=(\S+)", last))


main()
