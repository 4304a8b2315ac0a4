#!/usr/bin/env bash
# Stand-in base images from Debian packages, for a machine that reaches no image registry: `make standins`.
#
# They carry the names and tags that docker-compose.yml and the Dockerfiles ask for, the same users and entry points as
# far as this project uses them, and a label that says what they are. The product's own images know nothing of it. What
# the host needs to reach its package mirrors (CA bundle, pip.conf) goes into the Python base here and nowhere else.
# Needs root, debootstrap and a Docker engine. Images that are there are kept; REBUILD=1 makes them again.
set -euo pipefail
cd "$(dirname "$0")"

# The mirror this machine installs from, or the one that is given.
# shellcheck disable=SC2016 # apt expands it
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)}
ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

must_build() { [[ -n ${REBUILD:-} ]] || ! docker image inspect "$1" >/dev/null 2>&1; }

# What Debian's own slim images leave out, now and in what is installed on top: the copyright notices stay.
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

# The tag of an image, from the file that asks for it: pinned there, in one place.
asked() { # NAME
  grep -hoE "(image: |PYTHON_IMAGE=)([a-z]+/)?$1:[^ ]+" ../../docker-compose.yml ../../services/*/Dockerfile |
    sed -E 's/^(image: |PYTHON_IMAGE=)//' | sort -u | head -n 1
}

rootfs bookworm ca-certificates,python3,python3-venv,python3-pip,netbase,tzdata
rootfs trixie ca-certificates,netbase,tzdata

cp -r python "$work/python"
cp "$ca_bundle" "$work/python/ca-certificates.crt"
image "$work/python" "$(asked python)"
for name in postgres valkey haproxy prometheus alertmanager; do
  image "$name" "$(asked "$name")"
done
