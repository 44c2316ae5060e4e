#!/usr/bin/env bash
# Install what the browser test lacks on Debian, as far as root may: Chromium with its driver, npm for fetch.py, and a font.
set -euo pipefail

missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
command -v npm >/dev/null || missing+=(npm)
# Screenshots should look the same everywhere.
fc-list 2>/dev/null | grep Inter >/dev/null || missing+=(fontconfig fonts-inter)
((${#missing[@]})) || exit 0
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
  echo "error: ${missing[*]} missing; install them and run this again" >&2
  exit 1
fi
apt-get update >&2
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}" >&2
