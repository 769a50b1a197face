#!/usr/bin/env bash
# A Debian as a tar archive, for `docker import`: what these tests have in place of a base image.
# usage: rootfs.sh SUITE ARCHIVE PACKAGE...     root, on Debian, with debootstrap
set -euo pipefail
suite=$1 archive=$2
shift 2
folder=$(mktemp -d "${TMPDIR:-/tmp}/rootfs-$suite.XXXXXX")
trap 'rm -rf "$folder"' EXIT

# The mirror that this machine itself uses, in either form of apt's sources.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null || true; } |
  sed -nE 's#^(URIs:|deb( \[[^]]*\])?) +(https?:[^ ]*/debian)/?( .*)?$#\3#p' | sed -n 1p)
[ -n "$mirror" ] || { echo "apt's sources name no Debian mirror" >&2; exit 1; }

# A debootstrap older than the suite has no script of its name; all share the newest one.
script=/usr/share/debootstrap/scripts/$suite
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
debootstrap --variant=minbase --include=ca-certificates "$suite" "$folder" "$mirror" "$script" >"$archive.log"

# A suite that is not released yet may be served by a mirror whose list has expired.
in_it() { DEBIAN_FRONTEND=noninteractive chroot "$folder" "$@" >>"$archive.log" 2>&1; }
in_it apt-get -o Acquire::Check-Valid-Until=false update
in_it apt-get install -y --no-install-recommends "$@"
in_it apt-get clean
rm -rf "$folder"/var/lib/apt/lists/* "$folder"/var/cache/debconf/*-old "$folder"/var/log/* \
  "$folder"/usr/share/{doc,info,locale,man}/*
# Whatever this machine trusts, a build on it has to trust too, or it reaches no package index.
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"
tar -C "$folder" --one-file-system -cf "$archive.part" .
mv "$archive.part" "$archive"
