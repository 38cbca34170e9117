#!/usr/bin/env bash
# Makes a stand-in of a base image where no image registry can be reached, so that the Dockerfile is built and its image
# started all the same: `stand_in.sh python|node FILE` writes the file system as a tar file, from Debian's packages.
# A stand-in carries this machine's configuration of its package clients (mirrors, certificates): it stays here.
# It is larger than the real base: its Python is Debian's, with a virtual environment in its usual place.
set -euo pipefail
kind=$1 tar=$2
hooks=(
  --customize-hook='cp /etc/apt/apt.conf.d/* "$1/etc/apt/apt.conf.d/" 2>/dev/null || true'
  --customize-hook='cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"'
  --customize-hook='for f in /etc/pip.conf /etc/npmrc; do [ -f "$f" ] && cp "$f" "$1$f"; done; true'
)
case $kind in
  python)
    packages=python3,python3-venv
    hooks+=(--customize-hook='chroot "$1" python3 -m venv --copies /usr/local; ln -sf python3 "$1/usr/local/bin/python"')
    ;;
  node)
    packages=libstdc++6
    hooks+=(
      --customize-hook='mkdir -p "$1/usr/local/lib/node_modules"; cp -L "$(command -v node)" "$1/usr/local/bin/node"'
      --customize-hook='cp -rL "$(npm root -g)/npm" "$1/usr/local/lib/node_modules/"'
      --customize-hook='ln -sf ../lib/node_modules/npm/bin/npm-cli.js "$1/usr/local/bin/npm"'
      --customize-hook='cp /etc/npmrc "$1/usr/local/etc/npmrc" 2>/dev/null || true'
    )
    ;;
esac
mkdir -p "$(dirname "$tar")"
mmdebstrap --quiet --variant=minbase --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include="usr-is-merged,ca-certificates,$packages" --aptopt='Acquire::Check-Valid-Until "false"' \
  "${hooks[@]}" --format=tar bookworm "$tar.part" /etc/apt/sources.list.d/debian.sources
mv "$tar.part" "$tar"
