# A ClickHouse for the tests. Source this file, then:
#
#   start_clickhouse    sets and exports CLICKHOUSE_URL, unless it is set already
#   stop_clickhouse     ends the server that start_clickhouse started
#
# Run as a program it starts one in the foreground. The engine comes from PyPI into the tests' Python
# environment (see python.sh) on first use; it takes about 900 MB.

# shellcheck source=scripts/lib/python.sh
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"

clickhouse_repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
clickhouse_target=${CARGO_TARGET_DIR:-$clickhouse_repository/target}
clickhouse_requirements=$clickhouse_repository/tests/tools/requirements.txt
clickhouse_pid=

start_clickhouse() {
    if [ -n "${CLICKHOUSE_URL:-}" ]; then
        echo "using the ClickHouse at CLICKHOUSE_URL" >&2
        return
    fi
    install_python "$clickhouse_requirements" || return
    mkdir -p "$clickhouse_target" || return
    local output
    output=$(mktemp "$clickhouse_target/clickhouse-XXXXXX.out") || return
    "$test_python" "$clickhouse_repository/tests/tools/chserver.py" >"$output" 2>&1 &
    clickhouse_pid=$!
    # The first line is the URL, written once the server answers.
    local tries=600
    until grep -q '^http://' "$output"; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ] || ! kill -0 "$clickhouse_pid" 2>/dev/null; then
            echo "the test ClickHouse did not start:" >&2
            cat "$output" >&2
            stop_clickhouse
            return 1
        fi
        sleep 0.1
    done
    CLICKHOUSE_URL=$(grep -m 1 '^http://' "$output")
    export CLICKHOUSE_URL
    rm -f "$output" # the server keeps writing to it unseen
}

stop_clickhouse() {
    if [ -n "$clickhouse_pid" ]; then
        kill "$clickhouse_pid" 2>/dev/null
        wait "$clickhouse_pid" 2>/dev/null
        clickhouse_pid=
    fi
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    install_python "$clickhouse_requirements" && exec "$test_python" "$clickhouse_repository/tests/tools/chserver.py" "$@"
fi
