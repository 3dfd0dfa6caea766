#!/bin/sh
# Unpack Debian's MySQL server, with all its libraries, into a folder; nothing is installed. Needs apt.
# Only Debian's unstable branch has it, and its libraries are newer than those of a stable system.
set -eu
folder=$1
test ! -x "$folder/usr/sbin/mysqld" || exit 0
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$folder"
: >"$apt/status" # as if nothing were installed: so apt downloads every library
repository=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/$' | head -n 1)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $repository sid main" >"$apt/sources.list"
unstable() {
    apt-get --quiet --quiet -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State::Lists="$apt/lists" -o Dir::State::Status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o APT::Sandbox::User=root "$@"
}
unstable update
unstable install --yes --no-install-recommends --download-only mysql-server-core
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --extract "$package" "$folder"
done
