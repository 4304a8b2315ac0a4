#!/usr/bin/env bash
# Installs the Debian packages of the PROGRAM=PACKAGE arguments whose program is missing, as root with apt. Otherwise prints
# the missing packages. Fails only for required packages, which are marked with a trailing "!".
set -euo pipefail

missing=() needed=()
for pair in "$@"; do
  program=${pair%%=*} package=${pair#*=}
  command -v "$program" >/dev/null && continue
  missing+=("${package%!}")
  [[ $package == *! ]] && needed+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]} with apt" >&2
  # A package must not start its service: the stack runs its own processes on its own ports.
  policy=/usr/sbin/policy-rc.d made=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=yes
  fi
  trap '[[ -z $made ]] || rm -f $policy' EXIT
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -yqq --no-install-recommends "${missing[@]}" >&2 ||
    { apt-get update -qq >&2 && apt-get install -yqq --no-install-recommends "${missing[@]}" >&2; } ||
    echo "apt could not install ${missing[*]}" >&2
else
  echo "not installed: ${missing[*]} (install the packages, or run as root on a system with apt)" >&2
fi
for program in "${needed[@]}"; do
  command -v "$program" >/dev/null || { echo "$program is required and not installed" >&2; exit 1; }
done
