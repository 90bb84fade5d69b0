#!/bin/sh
# Makes a base image from Debian packages, for machines that reach no container registry.
#
#   images/base/debian.sh [NAME]        NAME defaults to localhost/ippo-base:bookworm
#
# Needs root, debootstrap and buildah. Takes about a minute; then: make images BASE=localhost/ippo-base:bookworm
set -eu

name=${1:-localhost/ippo-base:bookworm}
suite=${SUITE:-bookworm}
: "${SOURCE_DATE_EPOCH:=0}"
for program in debootstrap buildah; do
  command -v "$program" > /dev/null || { echo "$program is missing: apt-get install debootstrap buildah" >&2; exit 1; }
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$work/root" > "$work/log" 2>&1 \
  || { tail -n 20 "$work/log" >&2; exit 1; }
# What differs from one making to the next, and what no container needs.
rm -rf "$work/root"/var/cache/apt/* "$work/root"/var/lib/apt/lists/* "$work/root"/var/log/* \
  "$work/root"/var/cache/ldconfig/* "$work/root"/usr/share/doc/* "$work/root"/usr/share/man/* "$work/root"/etc/machine-id
find "$work/root" -name __pycache__ -type d -prune -exec rm -rf {} +

container=$(buildah from scratch)
buildah add --quiet "$container" "$work/root" / > /dev/null
buildah config --env LANG=C.UTF-8 --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd /bin/sh "$container"
buildah commit --quiet --rm --timestamp "$SOURCE_DATE_EPOCH" "$container" "$name" > /dev/null
echo "$name"
