#!/usr/bin/env bash
# Write a certificate for localhost and the authority that signed it, whose key is thrown away. Needs openssl.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ca.cnf" <<'CNF'
[ca]
default_ca = test
[test]
new_certs_dir = .
database = index
serial = serial
default_md = sha256
policy = any
[any]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
CNF
sign() {
  (cd "$work" && openssl ca -batch -notext -config ca.cnf -startdate 20200101000000Z -enddate 21200101000000Z "$@")
}
touch "$work/index"
echo 01 >"$work/serial"
for name in authority server; do
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=bignas test $name" -keyout "$work/$name.key" -out "$work/$name.csr"
done
sign -selfsign -keyfile authority.key -extensions authority -in authority.csr -out authority.pem
sign -cert authority.pem -keyfile authority.key -extensions server -in server.csr -out server.pem
cp "$work"/{authority,server}.pem "$work/server.key" .
