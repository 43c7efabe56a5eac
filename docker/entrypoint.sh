#!/usr/bin/env bash
# The container's arguments go to ./grids; "ros2 …", "rqt" and "bash" are executed directly, in the workspace.
set -eo pipefail
# shellcheck disable=SC1091
source /opt/ros/jazzy/setup.bash
# The dynamic loader does not search the folders of the CUDA, cuDNN and TensorRT wheels.
for folder in /grids/.venv/lib/python3*/site-packages/nvidia/*/lib /grids/.venv/lib/python3*/site-packages/tensorrt_libs; do
  [ -d "$folder" ] && export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
# config/ is mounted from the host and linked into the build: files newer than the image need no rebuild.
touch /grids/.grids/built || true
case "${1:-}" in
  ros2 | bash | rqt)
    # shellcheck disable=SC1091
    source /grids/.grids/env.sh
    exec "$@"
    ;;
  *) exec /grids/grids "$@" ;;
esac
