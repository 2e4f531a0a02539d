# Sourced by the start scripts beside it: start a server in the background, wait until it answers, stop it.
# It never leaves a server behind that did not become ready.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CACHE=${CI_CACHE:-$ROOT/.cache}

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# launch DIR COMMAND...: runs it with its output in DIR/log and its id in DIR/pid.
launch() {
  local dir=$1; shift
  command -v "$1" >/dev/null || fail "$1 is not installed; tests/infra/install.sh does it"
  mkdir -p "$dir"
  [ ! -s "$dir/pid" ] || ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || fail "already running in $dir (process $(cat "$dir/pid"))"
  nohup "$@" > "$dir/log" 2>&1 < /dev/null &
  echo $! > "$dir/pid"
}

# ready DIR PROBE...: waits until the probe succeeds; gives up when the server dies or after 30 s.
ready() {
  local dir=$1 deadline=$((SECONDS + 30)); shift
  until "$@" > /dev/null 2>&1; do
    if ! kill -0 "$(cat "$dir/pid")" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
      echo "--- the end of $dir/log" >&2; tail -n 30 "$dir/log" >&2
      stop "$dir"
      fail "did not become ready"
    fi
    sleep 0.1
  done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# stop DIR: ends the server and waits until it is gone.
stop() {
  local pid; [ -s "$1/pid" ] || return 0
  pid=$(cat "$1/pid")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$1/pid"
}
