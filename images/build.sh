#!/bin/sh
# Builds the images: `make images` calls it. Settings are environment variables:
#
#   ENGINE         buildah, podman or docker (default: the first that is there)
#   BASE           base image with Python 3.11 and venv (default: the Containerfiles')
#   IMAGES         what to build (default: "operator trainer-cpu"); also trainer-cuda, trainer-cuda-vllm, trainer-cpu-vllm
#   TAG            version in the names (default: pyproject.toml's)
#   PREFIX         put before the names, with its slash (default: none), e.g. registry.example/team/
#   PIP_FIND_LINKS folder or address of wheels that pip looks at first, e.g. torch's CPU build
#   CPU_WHEELS     index of torch's CPU build, for CPU variants without PIP_FIND_LINKS
#   BUILD_FLAGS    further flags for the engine's build command
#   SAVE           a folder: each image is also written there as a docker archive, operator.tar, trainer-cpu.tar, …
set -eu
cd "$(dirname "$0")/.."

: "${IMAGES:=operator trainer-cpu}"
: "${TAG:=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}"
: "${CPU_WHEELS=https://download.pytorch.org/whl/cpu}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2> /dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)

if [ -z "${ENGINE:-}" ]; then
  for ENGINE in buildah podman docker none; do command -v "$ENGINE" > /dev/null && break; done
fi
case "$ENGINE" in
  # Times in layers come from SOURCE_DATE_EPOCH: in buildah and podman by a flag, in BuildKit by itself.
  buildah|podman) build="$ENGINE build --layers --timestamp $SOURCE_DATE_EPOCH --format docker" ;;
  docker) build="docker build --build-arg SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH" ;;
  *) echo "no buildah, podman or docker here: install one, or name it: make images ENGINE=/path/to/one" >&2; exit 1 ;;
esac
command -v "$ENGINE" > /dev/null || { echo "$ENGINE is not installed: make images ENGINE=…" >&2; exit 1; }

for image in $IMAGES; do
  variant=${image#*-}
  case "$image" in
    operator) name="${PREFIX:-}ippo-operator:$TAG" file=images/operator/Containerfile variant="" ;;
    trainer-cpu|trainer-cuda|trainer-cuda-vllm|trainer-cpu-vllm)
      name="${PREFIX:-}ippo-trainer:$TAG-$variant" file=images/trainer/Containerfile ;;
    *) echo "IMAGES: $image is none of operator, trainer-cpu, trainer-cuda, trainer-cuda-vllm, trainer-cpu-vllm" >&2; exit 1 ;;
  esac
  set -- --file "$file" --tag "$name" --build-arg "VERSION=$TAG" --build-arg "REVISION=$revision"
  [ -z "$variant" ] || set -- "$@" --build-arg "VARIANT=$variant"
  [ -z "${BASE:-}" ] || set -- "$@" --build-arg "BASE=$BASE"
  case "$variant" in cpu*)
    if [ -n "${PIP_FIND_LINKS:-}" ]; then
      set -- "$@" --build-arg "PIP_FIND_LINKS=$PIP_FIND_LINKS"
      # A folder of this machine has to be seen by the build.
      [ ! -d "$PIP_FIND_LINKS" ] || [ "$ENGINE" = docker ] || set -- "$@" --volume "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro"
    elif [ -n "$CPU_WHEELS" ]; then
      set -- "$@" --build-arg "PIP_EXTRA_INDEX_URL=$CPU_WHEELS"
    fi ;;
  esac
  echo "$name"
  # shellcheck disable=SC2086
  $build "$@" ${BUILD_FLAGS:-} .
  if [ -n "${SAVE:-}" ]; then
    rm -f "$SAVE/$image.new"
    case "$ENGINE" in
      buildah) buildah push --quiet "$name" "docker-archive:$SAVE/$image.new:$name" ;;
      *) "$ENGINE" save --output "$SAVE/$image.new" "$name" ;;
    esac
    mv "$SAVE/$image.new" "$SAVE/$image.tar"
  fi
done
