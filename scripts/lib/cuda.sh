# NVIDIA's compiler, to see that the CUDA kernels compile; nothing of it runs on a GPU. Source this file after machine.sh, then:
#
#   install_cuda    installs it, unless it is there, and exports AI_GATEWAY_TEST_CUDA, the folder that holds bin/nvcc
#
# It comes from PyPI, 322 MB in the target directory. Where it cannot be had the tests that need it say that they are
# skipped: no other test does.

cuda_version=13.5.37

install_cuda() {
    local folder=$CARGO_TARGET_DIR/cuda-$cuda_version
    if [ ! -e "$folder/.installed" ]; then
        echo "installing NVIDIA's compiler $cuda_version into $folder" >&2
        rm -rf "$folder"
        # One folder for all four, and nothing of the machine's Python is touched.
        if ! timeout 300 python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile \
            --target "$folder" "nvidia-cuda-nvcc==$cuda_version" "nvidia-nvvm==$cuda_version" \
            "nvidia-cuda-crt==$cuda_version" "nvidia-cuda-runtime==$cuda_version" >&2; then
            echo "NVIDIA's compiler could not be installed: the kernels will not be compiled for GPUs" >&2
            rm -rf "$folder"
            return
        fi
        touch "$folder/.installed"
    fi
    export AI_GATEWAY_TEST_CUDA=$folder/nvidia/cu13
}
