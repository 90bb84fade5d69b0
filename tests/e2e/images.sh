#!/bin/sh
# The images of `make e2e`, as archives below build/images. On a machine without a registry, but with root, debootstrap and
# buildah, the base comes from Debian's packages; settings of images/build.sh that are given (BASE, ENGINE, …) win.
set -eu
cd "$(dirname "$0")/../.."

export SAVE="$PWD/build/images" IMAGES="operator trainer-cpu"
mkdir -p "$SAVE"
if [ -z "${BASE:-}" ] && [ "$(id -u)" = 0 ] && command -v debootstrap > /dev/null && command -v buildah > /dev/null; then
  BASE=localhost/ippo-base:bookworm
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || images/base/debian.sh "$BASE"
  : "${BUILD_FLAGS=--isolation oci --network host -v /etc/ssl/certs:/etc/ssl/certs:ro}"
  : "${PIP_FIND_LINKS=$(python3 -m pip config get global.find-links 2> /dev/null || true)}"
  export BASE BUILD_FLAGS PIP_FIND_LINKS ENGINE=buildah
fi
exec images/build.sh
