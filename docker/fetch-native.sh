#!/bin/sh
# fetch-native.sh IMAGE PART: puts ONNX Runtime, as native.json pins it under PART, where the image at IMAGE looks for it, and the
# playground's runtime beside it.
set -eu
image=$1 part=$2
library=$(python3 scripts/fetch.py "$part")
[ -d "$library" ] || library=$(dirname "$library")
web=$(python3 scripts/fetch.py onnxruntime-web)
mkdir -p "$image/usr/local/lib" "$image/usr/local/share/onnxruntime-web" "$image/usr/local/share/doc/onnxruntime"
cp --no-preserve=ownership "$library"/*.so "$image/usr/local/lib"
cp --no-preserve=ownership "$library/LICENSE" "$library/ThirdPartyNotices.txt" "$image/usr/local/share/doc/onnxruntime"
cp --no-preserve=ownership "$web"/* "$image/usr/local/share/onnxruntime-web"
