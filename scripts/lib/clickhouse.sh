# A ClickHouse for the tests. Source this file, then:
#
#   start_clickhouse    sets and exports CLICKHOUSE_URL, unless it is set already
#   stop_clickhouse     ends the server that start_clickhouse started
#
# Run as a program it starts one in the foreground. The engine comes from PyPI into a Python
# environment of its own (AI_GATEWAY_TEST_VENV, default <target dir>/test-venv), made on first use;
# it takes about 900 MB.

clickhouse_repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
clickhouse_target=${CARGO_TARGET_DIR:-$clickhouse_repository/target}
clickhouse_pid=

# Makes the environment, or does nothing when it holds what requirements.txt asks for.
install_clickhouse() {
    local venv=${AI_GATEWAY_TEST_VENV:-$clickhouse_target/test-venv}
    local requirements=$clickhouse_repository/tests/tools/requirements.txt
    local done_mark=$venv/.installed-$(cksum <"$requirements" | tr ' ' '-')
    if [ ! -e "$done_mark" ]; then
        echo "installing the test ClickHouse into $venv" >&2
        mkdir -p "$(dirname "$venv")" || return
        python3 -m venv "$venv" >&2 || {
            echo "cannot make a Python environment; Debian needs: apt-get install python3-venv" >&2
            return 1
        }
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2 || return
        touch "$done_mark"
    fi
    clickhouse_python=$venv/bin/python3
}

start_clickhouse() {
    if [ -n "${CLICKHOUSE_URL:-}" ]; then
        echo "using the ClickHouse at CLICKHOUSE_URL" >&2
        return
    fi
    install_clickhouse || return
    mkdir -p "$clickhouse_target" || return
    local output
    output=$(mktemp "$clickhouse_target/clickhouse-XXXXXX.out") || return
    "$clickhouse_python" "$clickhouse_repository/tests/tools/chserver.py" >"$output" 2>&1 &
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
    install_clickhouse && exec "$clickhouse_python" "$clickhouse_repository/tests/tools/chserver.py" "$@"
fi
