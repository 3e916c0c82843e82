"""Every metric that a dashboard or an alert names is exported by a Ray node, with a value; the rest of
the rules for them."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[1]
BOARDS = sorted((ROOT / "dashboards" / "grafana").glob("*.json"))
NAME = re.compile(r"\bray_qdlm_\w+")
LABELS = {"run", "state", "outcome", "rung", "objective", "le"}
OF_RAY = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId", "otel_scope_name",
          "otel_scope_schema_url", "otel_scope_version"}


def expressions():
    """Every PromQL expression of the dashboards and the alerts, with where it stands."""
    for board in BOARDS:
        for panel in json.loads(board.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{board.name}: {panel['title']}", target["expr"]
    for group in yaml.safe_load((ROOT / "dashboards" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml: {rule['alert']}", rule["expr"]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def fetched(address):
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.read().decode()


def until(look, seconds=60.0):
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def node(warm_env):
    """Port of a node that exports a toy run, and its process."""
    port, path = free_port(), os.pathsep.join([str(ROOT), warm_env["PYTHONPATH"]])
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "metrics_node.py"), str(port)],
                               cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, env={**os.environ, **warm_env, "PYTHONPATH": path})
    try:
        assert process.stdout.readline() == "ready\n"
        yield port, process
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def samples(node):
    """What the node exports of ours: name -> samples."""

    def look():
        text = fetched(f"http://127.0.0.1:{node[0]}/metrics")
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ray_qdlm_"):
                    found.setdefault(sample.name, []).append(sample)
        return found if "ray_qdlm_warnings_total" in found and "ray_qdlm_trials" in found else None

    return until(look)


def test_every_named_metric_is_exported_and_every_exported_one_is_looked_at(samples):
    named = {name for _, expression in expressions() for name in NAME.findall(expression)}
    assert named - set(samples) == set(), "named and never exported"
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}
    assert families - {re.sub(r"_(bucket|sum|count)$", "", name)
                       for name in named} == set(), "exported and never shown"


def test_the_values_are_those_of_the_run_and_labels_are_bounded(samples):
    def value(name, **labels):
        (sample,) = [item for item in samples[f"ray_{name}"] if labels.items() <= item.labels.items()]
        return sample.value

    assert value("qdlm_trials", state="complete") == 2 and value("qdlm_front_members", run="toy-1") == 2
    assert (value("qdlm_hypervolume_ratio") == 0.5
            and value("qdlm_best_objective", objective="perplexity") == 8.5)
    assert value("qdlm_device_seconds", outcome="shared") == 9 and value("qdlm_tokens_per_second") == 950
    assert value("qdlm_rung_results_total", rung="0") == 1 and value("qdlm_rung_results_total", rung="1") == 1
    assert value("qdlm_trial_start_seconds_count") == 1, ("once per trial, and not for one that was "
                                                          "never measured")
    assert (value("qdlm_proposal_seconds_bucket", le="0.03") == 1
            and value("qdlm_proposal_seconds_bucket", le="0.01") == 0)
    assert {label for found in samples.values() for item in found for label in item.labels} <= LABELS | OF_RAY


def test_names_follow_the_conventions():
    pytest.importorskip("ray")
    from ray.util.metrics import Counter

    from search.distributed.prometheus import CATALOG

    for name, (kind, text, _) in CATALOG.items():
        assert re.fullmatch(r"qdlm(_[a-z]+)+", name) and text.endswith(".")
        assert (kind is Counter) == name.endswith("_total")
        assert not re.search(r"_(ms|milliseconds|percent|minutes|hours)$", name), "base units"


def test_alerts_have_a_summary_and_boards_a_unique_id():
    rules = [rule for group in yaml.safe_load((ROOT / "dashboards" / "alerts.yml").read_text())["groups"]
             for rule in group["rules"]]
    assert rules and all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)
    boards = [json.loads(board.read_text()) for board in BOARDS]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.skipif(not shutil.which("prometheus"),
                    reason="no prometheus on the PATH: apt-get install prometheus")
def test_prometheus_itself_scrapes_them_and_understands_every_expression(node, samples, tmp_path):
    (tmp_path / "prom_metrics_service_discovery.json").write_text(json.dumps(
        [{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{node[0]}"]}]))
    port = free_port()
    settings = tmp_path / "bin"
    shutil.copytree(ROOT / "dashboards", settings)
    text = (settings / "prometheus.yml").read_text().replace("10s", "1s")
    (settings / "prometheus.yml").write_text(text)
    server = subprocess.Popen([str(settings / "prometheus.sh"), str(tmp_path / "data")],
                              stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env={**os.environ, "QDLM_PROMETHEUS_PORT": str(port),
                                                              "QDLM_RAY_TMP": str(tmp_path)})
    try:
        def ask(expression):
            query = urllib.parse.urlencode({"query": expression})
            return json.loads(fetched(f"http://127.0.0.1:{port}/api/v1/query?{query}"))["data"]["result"]

        until(lambda: ask("ray_qdlm_trials"))
        node[1].stdin.write("more\n")
        node[1].stdin.flush()
        until(lambda: ask("increase(ray_qdlm_rung_results_total[1m]) > 0"))
        for where, expression in expressions():
            for name in NAME.findall(expression):
                assert ask(name), f"{where}: {name} was never scraped"
            if not where.startswith("alerts"):
                assert until(lambda expression=expression: ask(expression.replace('"$run"', '".*"'))), where
        rules = json.loads(fetched(f"http://127.0.0.1:{port}/api/v1/rules"))["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} == {"ok"}
    finally:
        server.terminate()
        server.wait(20)
