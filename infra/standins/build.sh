#!/usr/bin/env bash
# Build stand-in base images from Debian packages, for a machine without access to an image registry: `make standins`.
#
# They have the names and tags that docker-compose.yml and the Dockerfiles use, the users and entry points that this
# project needs, and a label that marks them as stand-ins. The platform's images do not depend on it. The host's settings
# for package mirrors (CA bundle, pip.conf) are copied into the Python base only.
# Apache Kafka has no Debian package and no stand-in image. tests/deploy/kafka_standin.py stands in for its container as
# a process; docs/streaming.md states what is not proven without the image.
# Needs root, debootstrap and a Docker engine. Existing images are kept; REBUILD=1 builds them again.
set -euo pipefail
cd "$(dirname "$0")"

# The mirror of this machine, or the given one.
# shellcheck disable=SC2016 # apt expands it
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)}
ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

must_build() { [[ -n ${REBUILD:-} ]] || ! docker image inspect "$1" >/dev/null 2>&1; }

# Excludes the files that Debian's slim images exclude, also for packages installed later. Copyright notices are kept.
slim() { # ROOTFS
  local kind
  for kind in doc doc-base groff info linda lintian locale man; do
    echo "path-exclude /usr/share/$kind/*"
    [[ $kind == doc ]] || rm -rf "${1:?}/usr/share/$kind"
  done >"$1/etc/dpkg/dpkg.cfg.d/docker"
  echo "path-include /usr/share/doc/*/copyright" >>"$1/etc/dpkg/dpkg.cfg.d/docker"
  find "$1/usr/share/doc" -mindepth 1 ! -type d ! -name copyright -delete
  rm -rf "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/var/lib/apt/lists/* "$1"/var/log/*
  find "$1/usr" -name __pycache__ -prune -exec rm -rf {} +
}

rootfs() { # SUITE PACKAGES: import a minimal Debian as fraud-standin/SUITE
  must_build "fraud-standin/$1" || return 0
  debootstrap --variant=minbase --include="$2" "$1" "$work/$1" "$mirror" >"$work/$1.log" ||
    { tail -n 20 "$work/$1.log" >&2; return 1; }
  slim "$work/$1"
  tar -C "$work/$1" -c . | docker import - "fraud-standin/$1" >/dev/null
  rm -rf "${work:?}/$1"
  echo "fraud-standin/$1"
}

image() { # FOLDER TAG
  must_build "$2" || return 0
  DOCKER_BUILDKIT=1 docker build --quiet --label org.fraud.standin=debian --tag "$2" "$1" >/dev/null
  echo "$2"
}

# The tag of an image, from the file that pins it.
pinned_tag() { # NAME
  grep -hoE "(image: |PYTHON_IMAGE=)([a-z]+/)?$1:[^ ]+" ../../docker-compose.yml ../../services/*/Dockerfile |
    sed -E 's/^(image: |PYTHON_IMAGE=)//' | sort -u | head -n 1
}

rootfs bookworm ca-certificates,python3,python3-venv,python3-pip,netbase,tzdata
rootfs trixie ca-certificates,netbase,tzdata

cp -r python "$work/python"
cp "$ca_bundle" "$work/python/ca-certificates.crt"
image "$work/python" "$(pinned_tag python)"
for name in postgres valkey haproxy prometheus alertmanager; do
  image "$name" "$(pinned_tag "$name")"
done
