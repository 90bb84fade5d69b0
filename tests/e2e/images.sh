#!/bin/sh
# The images of `make e2e`, as archives below build/images; with the word `all` also those of `make e2e-all`: the
# trainer with vLLM, and the operator and the chart of the release before this one (build/previous, from Git's history).
#
# On a machine without a registry, but with root, debootstrap and buildah, the base comes from Debian's packages;
# settings of images/build.sh that are given (BASE, ENGINE, …) win.
set -eu
cd "$(dirname "$0")/../.."

export SAVE="$PWD/build/images"
mkdir -p "$SAVE"
if [ -z "${BASE:-}" ] && [ "$(id -u)" = 0 ] && command -v debootstrap > /dev/null && command -v buildah > /dev/null; then
  BASE=localhost/ippo-base:bookworm
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || images/base/debian.sh "$BASE"
  : "${BUILD_FLAGS=--isolation oci --network host -v /etc/ssl/certs:/etc/ssl/certs:ro}"
  : "${PIP_FIND_LINKS=$(python3 -m pip config get global.find-links 2> /dev/null || true)}"
  export BASE BUILD_FLAGS PIP_FIND_LINKS ENGINE=buildah
fi
IMAGES="operator trainer-cpu" images/build.sh
[ "${1:-}" = all ] || exit 0

IMAGES=trainer-cpu-vllm images/build.sh
previous=$(cat tests/e2e/previous)
if git cat-file -e "$previous^{commit}" 2> /dev/null; then
  rm -rf build/previous
  mkdir -p build/previous
  git archive "$previous" | tar -x -C build/previous
  SAVE="$PWD/build/previous" IMAGES=operator build/previous/images/build.sh
else
  echo "not built, for want of Git's history: the release before this one, $previous" >&2
fi
