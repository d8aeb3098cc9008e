# The Python environment that the tests' tools and clients share. Source this file, then:
#
#   install_python REQUIREMENTS    sets test_python to a Python that has what the file asks for
#
# The environment stands in AI_GATEWAY_TEST_VENV (default <target dir>/test-venv), made on first use.

python_repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Does nothing when the environment holds what the requirements ask for.
install_python() {
    local requirements=$1
    local venv=${AI_GATEWAY_TEST_VENV:-${CARGO_TARGET_DIR:-$python_repository/target}/test-venv}
    local done_mark
    done_mark=$venv/.installed-$(cksum <"$requirements" | tr ' ' '-')
    if [ ! -e "$done_mark" ]; then
        echo "installing ${requirements#"$python_repository/"} into $venv" >&2
        mkdir -p "$(dirname "$venv")" || return
        python3 -m venv "$venv" >&2 || {
            echo "cannot make a Python environment; Debian needs: apt-get install python3-venv" >&2
            return 1
        }
        "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2 || return
        touch "$done_mark"
    fi
    # shellcheck disable=SC2034 # for those who source this file
    test_python=$venv/bin/python3
}
