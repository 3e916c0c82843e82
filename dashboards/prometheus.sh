#!/usr/bin/env bash
# Prometheus beside a Ray cluster on this machine, on loopback; Ctrl-C ends it.
#   dashboards/prometheus.sh [DIR]      DIR keeps its data (by default a temporary folder)
# Environment: QDLM_PROMETHEUS_PORT (9090), QDLM_RAY_TMP (/tmp/ray: where Ray's head keeps its list of nodes).
# Debian: apt-get install prometheus. In Grafana: add http://127.0.0.1:9090, import dashboards/grafana/*.json.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${QDLM_PROMETHEUS_PORT:-9090}
nodes=${QDLM_RAY_TMP:-/tmp/ray}/prom_metrics_service_discovery.json
[[ ${1:-} == -h || ${1:-} == --help ]] && { sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; }
command -v prometheus >/dev/null || { echo "prometheus.sh: error: no prometheus found (Debian: apt-get install prometheus)" >&2; exit 2; }
[[ -s $nodes ]] || { echo "prometheus.sh: error: no $nodes: start a cluster first (cluster/local.sh start)" >&2; exit 2; }
data=${1:-$(mktemp -d)}
mkdir -p "$data"
cp "$here/alerts.yml" "$data/alerts.yml"
sed "s|/tmp/ray/prom_metrics_service_discovery.json|$nodes|" "$here/prometheus.yml" >"$data/prometheus.yml"
echo "Prometheus at http://127.0.0.1:$port, data in $data"
exec prometheus --config.file="$data/prometheus.yml" --storage.tsdb.path="$data/data" \
  --web.listen-address="127.0.0.1:$port" --log.level=warn
