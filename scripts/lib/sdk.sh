# The official clients that the suite runs against the gateway. Source this file after machine.sh, then:
#
#   install_sdks    installs them, unless they are there, and exports where the suite finds them:
#                   AI_GATEWAY_TEST_PYTHON          a Python that has those of tests/sdk/requirements.txt
#                   AI_GATEWAY_TEST_NODE_MODULES    those of tests/sdk/package-lock.json
#
# It takes about 300 MB in the target directory.

# shellcheck source=scripts/lib/python.sh
. "$(dirname "${BASH_SOURCE[0]}")/python.sh"

install_sdks() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        install_packages python3-venv || return
    fi
    install_python "$python_repository/tests/sdk/requirements.txt" || return
    export AI_GATEWAY_TEST_PYTHON=$test_python
    need node nodejs || return
    need npm npm || return
    if node -e 'process.exit(parseInt(process.versions.node) < 20 ? 0 : 1)'; then
        echo "the Node clients need Node 20 or later, and this is $(node --version): their tests will be skipped" >&2
        return
    fi
    install_node_modules || return
}

# The packages as the lock file names them, into a folder of their own: the tree stays clean.
install_node_modules() {
    local wanted=$python_repository/tests/sdk
    local folder=${CARGO_TARGET_DIR:-$python_repository/target}/test-node
    local done_mark
    done_mark=$folder/.installed-$(cksum <"$wanted/package-lock.json" | tr ' ' '-')
    if [ ! -e "$done_mark" ]; then
        echo "installing tests/sdk/package-lock.json into $folder" >&2
        mkdir -p "$folder" || return
        cp "$wanted/package.json" "$wanted/package-lock.json" "$folder/" || return
        # Without the optional ones: clients of providers that nobody calls here.
        (cd "$folder" && npm ci --omit=optional --ignore-scripts --no-audit --no-fund --loglevel=error >&2) || return
        touch "$done_mark"
    fi
    export AI_GATEWAY_TEST_NODE_MODULES=$folder/node_modules
}
