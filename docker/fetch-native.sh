#!/bin/sh
# fetch-native.sh IMAGE: puts the native parts, as native.json pins them, where the image at IMAGE looks for them.
set -eu
image=$1
install -D --mode 644 "$(python3 scripts/fetch.py onnxruntime)" "$image/usr/local/lib/libonnxruntime.so"
web=$image/usr/local/share/onnxruntime-web
mkdir -p "$web"
cp --no-preserve=ownership "$(python3 scripts/fetch.py onnxruntime-web)"/* "$web"
