"""deploy_examples.py DIR: do the example workloads in DIR/examples lead where the manifests of DIR are?

Schemas can't tell that a label, a port or a host name is another's. Prints what is wrong, and ends with 1."""

import pathlib
import sys
from urllib.parse import urlsplit

import yaml

PROBLEMS = []


def check(is_right, problem):
    if not is_right:
        PROBLEMS.append(problem)


def load(*paths):
    documents = [document for path in paths for document in yaml.safe_load_all(path.read_text()) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def selects(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


def env_of(container):
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def egress_namespaces(policy):
    for rule in policy["spec"]["egress"]:
        for peer in rule["to"]:
            yield peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name"), peer, rule["ports"]


folder = pathlib.Path(sys.argv[1])
examples = folder / "examples"
gateway = load(*folder.glob("*.yaml"))
service = gateway["Service", "hubgate"]
deployment = gateway["Deployment", "hubgate"]["spec"]["template"]
sync = gateway["CronJob", "hubgate-sync"]["spec"]["jobTemplate"]["spec"]["template"]
ours = gateway["NetworkPolicy", "hubgate"]["spec"]
pod_labels = deployment["metadata"]["labels"]
container_ports = {port["name"] for port in deployment["spec"]["containers"][0]["ports"]}
host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
check(selects({"matchLabels": service["spec"]["selector"]}, pod_labels), "service.yaml: selects no pod")
for kind, template in (("gateway", deployment), ("sync", sync)):
    policies = [p for (k, _), p in gateway.items() if k == "NetworkPolicy"]
    check(
        any(selects(p["spec"]["podSelector"], template["metadata"]["labels"]) for p in policies),
        f"networkpolicy.yaml: none is for the {kind}'s pods",
    )

reader = load(examples / "hf-endpoint.yaml")
env = env_of(reader["Deployment", "embedder"]["spec"]["template"]["spec"]["containers"][0])
url = urlsplit(env["HF_ENDPOINT"])
check((url.hostname, url.port) == (host, service["spec"]["ports"][0]["port"]), f"hf-endpoint.yaml: HF_ENDPOINT is not {host}")
check(host in env["NO_PROXY"].split(",") and env["NO_PROXY"] == env["no_proxy"], "hf-endpoint.yaml: NO_PROXY lacks hubgate")
namespace = reader["Namespace", "embedder"]["metadata"]["labels"]
clients = [peer["namespaceSelector"] for peer in ours["ingress"][0]["from"]]
check(any(selects(selector, namespace) for selector in clients), "hf-endpoint.yaml: hubgate does not let this namespace in")
to = {name: (peer, ports) for name, peer, ports in egress_namespaces(reader["NetworkPolicy", "embedder"])}
check(set(to) == {"kube-system", "hubgate"}, f"hf-endpoint.yaml: may reach {sorted(map(str, to))}, and not just DNS and hubgate")
peer, ports = to["hubgate"]
check(selects(peer["podSelector"], pod_labels), "hf-endpoint.yaml: its NetworkPolicy selects none of hubgate's pods")
check({port["port"] for port in ports} <= container_ports, "hf-endpoint.yaml: its NetworkPolicy names a port that hubgate's pods lack")

bucket = load(examples / "bucket-reader.yaml")
env = env_of(bucket["Deployment", "classifier"]["spec"]["template"]["spec"]["initContainers"][0])
to = {name: ports for name, _, ports in egress_namespaces(bucket["NetworkPolicy", "classifier"])}
url = urlsplit(env["MODEL_BASE_URL"])
check(set(to) == {"kube-system", "minio"}, f"bucket-reader.yaml: may reach {sorted(map(str, to))}, and not just DNS and the bucket")
check(url.port in {port["port"] for port in to["minio"]}, "bucket-reader.yaml: its NetworkPolicy lacks MODEL_BASE_URL's port")
config = gateway["ConfigMap", "hubgate"]["data"]["config.toml"]
for key, value in (("endpoint", env["MODEL_BASE_URL"]), ("bucket", env["MODEL_BUCKET"]), ("prefix", env["MODEL_PREFIX"])):
    check(f'{key} = "{value}"' in config, f"bucket-reader.yaml: {value} is not what hubgate publishes to")

proxy = load(examples / "egress-proxy.yaml")["NetworkPolicy", "only-hubgate"]
(let_in,) = proxy["spec"]["ingress"][0]["from"]
for kind, template in (("gateway", deployment), ("sync", sync)):
    check(selects(let_in["podSelector"], template["metadata"]["labels"]), f"egress-proxy.yaml: does not let the {kind}'s pods in")
places = [peer for rule in ours["egress"] for peer in rule["to"] if peer.get("podSelector") == proxy["spec"]["podSelector"]]
check(len(places) == 1, "egress-proxy.yaml: is not for the pods that hubgate's NetworkPolicy calls the proxy")

print("\n".join(PROBLEMS))
sys.exit(bool(PROBLEMS))
