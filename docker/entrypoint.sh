#!/usr/bin/env bash
# Everything after the image's name goes to ./grids; "ros2 …" and "bash" run as they are, inside the workspace.
set -eo pipefail
# shellcheck disable=SC1091
source /opt/ros/jazzy/setup.bash
# CUDA, cuDNN and TensorRT from wheels lie beside Python's packages, where the loader does not look by itself.
for folder in /grids/.venv/lib/python3*/site-packages/nvidia/*/lib /grids/.venv/lib/python3*/site-packages/tensorrt_libs; do
  [ -d "$folder" ] && export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
# config/ comes from the host and is linked into the build: a file newer than the image asks for no rebuild.
touch /grids/.grids/built || true
case "${1:-}" in
  ros2 | bash | rqt)
    # shellcheck disable=SC1091
    source /grids/.grids/env.sh
    exec "$@"
    ;;
  *) exec /grids/grids "$@" ;;
esac
