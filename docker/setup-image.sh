#!/bin/sh
# The rest of the image: the user that serves, the folder that it writes to, and proof that the program starts.
set -eu
groupadd --gid 10001 bignas
useradd --uid 10001 --gid 10001 --home-dir /cache --no-create-home --shell /usr/sbin/nologin bignas
install --directory --owner bignas --group bignas /cache
bignas --version
