#!/bin/bash
# What .ci/release builds, as somebody gets it: from two clones in different places the same bytes; a binary
# that runs where there is nothing else, no libc either; a package that a Debian takes.
# Wants root for the empty place. Builds twice, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf 'release: %s\n' "$*" >&2; exit 1; }
work=$(mktemp -d /tmp/kvmfw-release.XXXXXX)
trap 'rm -rf "$work"' EXIT
unset RELEASE_DYNAMIC CARGO_TARGET_DIR

commit=$(git rev-parse HEAD)
for place in one another/place; do
    git clone -q . "$work/$place"
    # Whoever commits here meanwhile changes nothing.
    git -C "$work/$place" -c advice.detachedHead=false checkout -q "$commit"
    (cd "$work/$place" && bash .ci/release)
done
one=$work/one/target/dist
diff "$one/SHA256SUMS" "$work/another/place/target/dist/SHA256SUMS" || fail 'two builds of one commit differ'
(cd "$one" && sha256sum --quiet -c SHA256SUMS)

mkdir "$work/empty" "$work/deb"
tar -C "$work/empty" -xf "$one"/*.tar.gz --strip-components 1
cp -r inventories modules "$work/empty"
chroot "$work/empty" /bin/kvmfw --version | grep -qF "${commit:0:12}" || fail 'it does not tell its commit'
chroot "$work/empty" /bin/kvmfw check || fail 'it does not run by itself'

dpkg-deb -x "$one"/*.deb "$work/deb"
cmp "$work/deb/usr/bin/kvmfw" "$work/empty/bin/kvmfw"
for page in "$work/deb"/usr/share/man/man1/*.gz; do gzip -t "$page"; done
[ -e "$work/deb/usr/share/man/man1/kvmfw-apply.1.gz" ] || fail 'the package has no manual'
# Takes it, by its dependencies and all, into a database of its own.
cp -r /var/lib/dpkg "$work/db"
dpkg --admindir "$work/db" --instdir "$work/deb" --no-triggers --unpack "$one"/*.deb >/dev/null || fail 'dpkg does not take it'
dpkg --admindir "$work/db" --instdir "$work/deb" --no-triggers --configure kvmfw >/dev/null || fail 'dpkg does not configure it'
echo 'release: two builds are equal, the binary stands alone, dpkg takes the package'
