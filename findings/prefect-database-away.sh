#!/usr/bin/env bash
# prefect 3.8.8 (asyncpg 0.32.0, SQLAlchemy 2.1.9): while PostgreSQL restarts, the server answers 500, which its own client does not try again,
# and /health says that all is well.
#
# Expected (prefect/server/api/server.py, custom_internal_exception_handler: "Send 503 for errors clients can retry on", among them asyncpg's
# CannotConnectNowError; https://docs.prefect.io/v3/api-ref/settings-ref, client.max_retries): a database that is away for some
# seconds is a 503, and a flow waits for it.
# Seen: a refused connection is a ConnectionRefusedError of Python, neither SQLAlchemy's nor asyncpg's, so each call gets a 500 at once, and
# PrefectHTTPStatusError ends the flow after one try. GET /health stays 200 `true`; only /ready turns 503. The same server answers
# again as soon as the database does.
#
# Consequence for this project: PREFECT_CLIENT_RETRY_EXTRA_CODES=500 for flows, workers and jobs (flows/cli/local.py, flows/services.py,
# prefect.yaml); a 5xx that stays is a failure in passing (tasks/pool.py). Needs PostgreSQL's binaries (Debian: apt-get install postgresql),
# and, as root, its user `postgres`. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
chmod 755 "$folder"
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --init-groups "$@"; else "$@"; fi; }
trap 'kill "${server:-}" 2>> "$folder/log" || true; kill -INT "${database:-}" 2>> "$folder/log" || true; wait || true; rm -rf "$folder"' EXIT
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check prefect==3.8.8 asyncpg==0.32.0 SQLAlchemy==2.1.9
cd "$folder"
read -r port api <<< "$(python3 -c 'import socket
both = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in both))')"
mkdir data run
[ "$(id -u)" = 0 ] && chown postgres data run
as "$bin/initdb" --auth=trust --username=prefect --no-sync --pgdata=data > log
start() {
  as "$bin/postgres" -D "$folder/data" -k "$folder/run" -h 127.0.0.1 -p "$port" -F >> log 2>&1 & database=$!
  until "$bin/pg_isready" --host=127.0.0.1 --port="$port" --quiet; do sleep 0.2; done
}
start
export PREFECT_HOME=$folder/home PREFECT_SERVER_ANALYTICS_ENABLED=false NO_PROXY=127.0.0.1
PREFECT_SERVER_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect@127.0.0.1:$port/postgres \
  venv/bin/prefect server start --host 127.0.0.1 --port "$api" >> log 2>&1 & server=$!
cat > ask.py <<'EOP'
import sys, time
import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

url, begun = sys.argv[1], time.monotonic()
with get_client(sync_client=True) as client:
    try:
        found = f"{len(client.read_flow_runs())} runs"
    except PrefectHTTPStatusError as error:
        found = f"HTTP status {error.response.status_code}"
quick = "at once" if time.monotonic() - begun < 2 else "after more tries"  # the first pause of the client is 2 s
print(found, quick, *(f"{word} {httpx.get(f'{url}/{word}').status_code}" for word in ("health", "ready")), sep=", ")
EOP
export PREFECT_API_URL=http://127.0.0.1:$api/api
until venv/bin/python -c "import httpx; httpx.get('$PREFECT_API_URL/ready').raise_for_status()" 2>> log; do sleep 1; done
before=$(venv/bin/python ask.py "$PREFECT_API_URL")
kill -INT "$database"
wait "$database" || true
away=$(venv/bin/python ask.py "$PREFECT_API_URL")
start
after=$(venv/bin/python ask.py "$PREFECT_API_URL")
printf 'database there: %s\ndatabase away:  %s\nthere again:    %s\n' "$before" "$away" "$after"
[ "$away" = "HTTP status 500, at once, health 200, ready 503" ] && [[ $before == "0 runs"*"ready 200" && $after == "0 runs"*"ready 200" ]]
