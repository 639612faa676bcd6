"""Renders the chart with each values file in ci/ and checks what comes out. Run by `test`, which installs what this needs."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

CHART = Path(__file__).parent / "shardline"
SCHEMAS = Path(__file__).parent.parent / "config"
KUBERNETES = ["1.29", "1.33", "1.37"]
# Kinds of the Prometheus operator, whose schemas Kubernetes does not have.
OPERATOR = {"ServiceMonitor": "endpoints", "PodMonitor": "podMetricsEndpoints", "PrometheusRule": "groups"}

# Values that the schema or the templates have to refuse, and what the message names.
REFUSED = [
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=deamonset"], "mode"),
    (["kafka.bootstrapServers=kafka", "leader.mode=daemonset"], "bootstrapServers"),
    (["leader.mode=daemonset"], "kafka.bootstrapServers is required"),
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=poll"], "leader.opensearch.url is required"),
    (["kafka.bootstrapServers=kafka:9092", "follower.enabled=true"], "follower.opensearch.url is required"),
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=daemonset", "leader.runAsUser=0"], "runAsUser"),
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=daemonset", "leader.opensearch.passwordSecret.name=a"], "passwordSecret"),
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=daemonset", "kafka.secretProperty.a=b"], "secretProperty"),
    (["kafka.bootstrapServers=kafka:9092", "leader.mode=daemonset", r"kafka.properties.sasl\.password=a"], "sasl.password"),
]


def helm(*arguments):
    return subprocess.run(["helm", *arguments], capture_output=True, text=True)


def render(version, *arguments):
    result = helm("template", "trial", str(CHART), "--namespace", "search", "--kube-version", version, *arguments)
    assert result.returncode == 0, result.stderr
    return [resource for resource in yaml.safe_load_all(result.stdout) if resource]


def check_resource(resource, version):
    """Kubernetes knows every field of a resource and has every one that it needs."""
    kind = resource["kind"]
    if kind in OPERATOR:
        assert resource["apiVersion"] == "monitoring.coreos.com/v1" and resource["spec"][OPERATOR[kind]], kind
    else:
        kubernetes_validate.validate(resource, version, strict=True)


def check_configuration(resource):
    """The agents read what a ConfigMap holds, and it has no secret."""
    for name, text in resource.get("data", {}).items():
        if name.endswith(".toml"):
            schema = json.loads((SCHEMAS / name.replace(".toml", ".schema.json")).read_text())
            config = tomllib.loads(text)
            jsonschema.validate(config, schema)
            assert "password" not in config["opensearch"], name


def check_sidecar(resource, version):
    """What is to be added to a data node's pods is legal there, and cannot take the node out of service."""
    patch = yaml.safe_load(resource["data"]["statefulset-patch.yaml"])
    values = yaml.safe_load(resource["data"]["official-chart.yaml"])
    pod = patch["spec"]["template"]["spec"]
    assert pod["containers"] == values["extraContainers"] and pod["volumes"] == values["extraVolumes"]
    (container,) = pod["containers"]
    assert not [key for key in container if key.endswith("Probe")], "a sidecar with a probe"
    data = container["volumeMounts"][0]
    assert not data.get("readOnly"), "the spool is beside the translogs"
    node = {"name": "opensearch", "image": "opensearch", "volumeMounts": [data]}
    labels = {"app": "opensearch"}
    volumes = [*pod["volumes"], {"name": data["name"], "emptyDir": {}}]
    spec = {"containers": [node, container], "volumes": volumes}
    template = {"metadata": {"labels": labels}, "spec": spec}
    stateful_set = {"serviceName": "opensearch", "selector": {"matchLabels": labels}, "template": template}
    whole = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "opensearch"}, "spec": stateful_set}
    kubernetes_validate.validate(whole, version, strict=True)


def check_pods(resource):
    """Our own containers run without root, write nowhere but to their volumes, and every mount has its volume."""
    pod = resource["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    volumes |= {claim["metadata"]["name"] for claim in resource["spec"].get("volumeClaimTemplates", [])}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] > 0 and context["readOnlyRootFilesystem"]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, resource["metadata"]["name"]


def check_values(file):
    lint = helm("lint", "--strict", str(CHART), "--values", str(file))
    assert lint.returncode == 0, lint.stdout + lint.stderr
    kinds = []
    for version in KUBERNETES:
        resources = render(version + ".0", "--values", str(file))
        kinds = sorted(resource["kind"] for resource in resources)
        for resource in resources:
            check_resource(resource, version)
            if resource["kind"] == "ConfigMap":
                check_configuration(resource)
                if "statefulset-patch.yaml" in resource["data"]:
                    check_sidecar(resource, version)
            if resource["kind"] in ("StatefulSet", "DaemonSet", "Deployment"):
                check_pods(resource)
    print(f"{file.name}: {', '.join(kinds)}")


def check_refused(settings, expected):
    sets = [argument for setting in settings for argument in ("--set", setting)]
    result = helm("template", "trial", str(CHART), "--kube-version", "1.33.0", *sets)
    assert result.returncode != 0 and expected in result.stderr, f"{settings}: {result.stderr or 'accepted'}"


def main():
    files = sorted((CHART / "ci").glob("*.yaml"))
    assert len(files) >= 5
    passed = failed = 0
    checks = [(check_values, (file,)) for file in files] + [(check_refused, case) for case in REFUSED]
    for check, arguments in checks:
        try:
            check(*arguments)
            passed += 1
        except Exception as error:
            print(f"{arguments}: {error}", file=sys.stderr)
            failed += 1
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed))


main()
