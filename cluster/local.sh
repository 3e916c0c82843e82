#!/usr/bin/env bash
# A Ray cluster on this machine, for runs that outlive a terminal:
#   cluster/local.sh start [--num-cpus N ...]      start the head (further options go to `ray start`)
#   cluster/local.sh submit SPACE [OPTIONS]        `qdlm submit` to this cluster, and follow the job's log
#   cluster/local.sh status                        nodes, resources and jobs
#   cluster/local.sh stop                          end the cluster that `start` started, and no other
#
# Environment: QDLM_RAY_PORT (6379), QDLM_RAY_DASHBOARD_PORT (8265), QDLM_RAY_CLIENT_PORT (any free one), QDLM_STORAGE
# (./runs), QDLM_CLUSTER_STATE (where pid and log are kept).
# The dashboard and the job API listen on loopback. Ray has no such switch for its internal ports: they listen on all
# interfaces and are guarded by the token in ~/.ray/auth_token. Keep the machine behind a firewall all the same.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${QDLM_CLUSTER_STATE:-${TMPDIR:-/tmp}/qdlm-cluster-$UID}
port=${QDLM_RAY_PORT:-6379}
dashboard=${QDLM_RAY_DASHBOARD_PORT:-8265}
shell_path=$PATH
export PATH="$root/.venv/bin:$PATH"
export RAY_AUTH_MODE=token      # the command line tools need it said; clusters have it on by default
export RAY_worker_niceness=0    # Ray runs workers at nice 15 otherwise
export RAY_USAGE_STATS_ENABLED=0
export RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S=120  # a busy machine takes its time to start the client's server
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=5  # of 30: there is no other node that could take over
export RAY_TRAIN_ENABLE_STATE_TRACKING=1  # the dashboard's page of training runs

fail() { echo "local.sh: error: $*" >&2; exit 2; }
running() { [[ -f $state/pid ]] && kill -0 "$(cat "$state/pid")" 2>/dev/null; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
# How the shell that called this script calls a program of the environment: qdlm, or .venv/bin/qdlm.
called() {
  PATH=$shell_path PYTHONPATH="$root" "$(command -v python)" -c \
    'import sys; from spaces.shell import called, program; print(program() if sys.argv[1] == "qdlm" else called(sys.argv[1]))' "$1"
}
ray_tool() { command -v ray >/dev/null || fail "no ray found; run: make install"; }

start() {
  running && fail "a cluster started here is running already (pid $(cat "$state/pid")); cluster/local.sh stop ends it"
  mkdir -p "$state"; chmod 700 "$state"
  [[ -s $HOME/.ray/auth_token ]] || ray get-auth-token --generate >/dev/null
  chmod 600 "$HOME/.ray/auth_token"  # ray leaves it as the umask has it
  # The agent takes the jobs. Its default port is taken wherever another Ray runs on the machine, and then jobs are refused.
  local agent client
  agent=$(free_port); client=${QDLM_RAY_CLIENT_PORT:-$(free_port)}
  nohup ray start --head --block --port "$port" --disable-usage-stats --dashboard-host 127.0.0.1 \
    --dashboard-port "$dashboard" --dashboard-agent-listen-port "$agent" --ray-client-server-port "$client" \
    --log-style record --log-color false "$@" \
    >"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
  for _ in $(seq 360); do
    # Jobs are taken once the dashboard and the node's agent listen, some seconds after the runtime has started.
    if grep -q "Ray runtime started" "$state/log" && listens "$dashboard" && listens "$agent"; then
      local qdlm; qdlm=$(called qdlm)
      echo "cluster at 127.0.0.1:$port, dashboard at http://127.0.0.1:$dashboard (token: $(called ray) get-auth-token)"
      echo "use it:  $qdlm run SPACE --address auto    or    $(printf %q "$0") submit SPACE"
      echo "from elsewhere (through a tunnel):  qdlm run SPACE --address ray://127.0.0.1:$client --storage DIR_ON_THE_CLUSTER"
      return
    fi
    running || { tail -n 5 "$state/log" >&2; rm -f "$state/pid"; fail "ray start failed; its log: $state/log"; }
    sleep 0.5
  done
  stop; fail "ray start took longer than 3 minutes; its log: $state/log"
}

submit() {
  (($#)) || fail "which space? cluster/local.sh submit SPACE [OPTIONS]"
  listens "$dashboard" || fail "no cluster takes jobs at port $dashboard; start one with: cluster/local.sh start"
  mkdir -p "${QDLM_STORAGE:=$root/runs}"
  PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec python -m search submit "$@" --follow \
    --address "http://127.0.0.1:$dashboard" --storage "$(cd "$QDLM_STORAGE" && pwd)"
}

status() {
  running || { echo "no cluster that was started here is running"; return 1; }
  ray status --address "127.0.0.1:$port"
  ray job list --address "http://127.0.0.1:$dashboard" 2>/dev/null | grep -E "submission_id|status=" || true
}

stop() {
  running || { echo "no cluster that was started here is running"; rm -f "$state/pid"; return; }
  local pid; pid=$(cat "$state/pid")
  kill -TERM "$pid"
  for _ in $(seq 60); do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$state/pid"
  echo "stopped"
}

command=${1:-}; shift || true
case $command in
  start|submit|status|stop) ray_tool; "$command" "$@" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $command == -h || $command == --help ]] || exit 2 ;;
esac
