#!/bin/sh
# What building needs beyond Rust, on a bare Debian: a linker, and the package managers that fetch.py fetches with.
set -eu
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev npm python3 python3-pip
rm -rf /var/lib/apt/lists/*
