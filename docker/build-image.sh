#!/bin/sh
# build-image.sh IMAGE: builds the program and puts it into the image at IMAGE, with the shipped models, the licences and
# what it takes to trust a server: without certificates, no client of a store or a collector starts, and Debian's image has none.
set -eu
image=$1
# Cargo goes by time, and the empty sources that the dependencies were built with may be younger.
touch src/lib.rs src/main.rs
cargo build --release --locked --bin bignas
install -D --strip target/release/bignas "$image/usr/local/bin/bignas"
mkdir -p "$image/models" "$image/usr/local/share/doc/bignas"
cp --recursive --no-preserve=ownership models/* "$image/models"
cp --no-preserve=ownership LICENSE-* "$image/usr/local/share/doc/bignas"
cp --parents /etc/ssl/certs/ca-certificates.crt /usr/share/doc/ca-certificates/copyright "$image"
