#!/bin/sh
# A wheel and an sdist of the files that git tracks here, as they are: the same bytes for the same files.
#   deploy/dist.sh PYTHON OUT        PYTHON has build and setuptools
# SOURCE_DATE_EPOCH: the time that both carry; the last commit's if unset.
set -eu
umask 022
python=$(command -v "$1")
mkdir -p "$2"
out=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A copy: what earlier builds left beside the sources must not get in.
mkdir "$work/source" "$work/built"
git ls-files -z | tar --create --null --verbatim-files-from --files-from - | tar --extract --no-same-permissions -C "$work/source"
"$python" -m build --no-isolation --outdir "$work/built" "$work/source" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }

# setuptools puts times and owners of this machine into an sdist; what tar needs is said in
# https://reproducible-builds.org/docs/archives/.
cd "$work/built"
name=$(basename -- *.tar.gz .tar.gz)
tar --extract --file "$name.tar.gz"
tar --create --sort=name --format=ustar --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
  --mode=u=rwX,go=rX "$name" | gzip --no-name -9 >"$name.tar.gz.new"
mv "$name.tar.gz.new" "$name.tar.gz"
for file in *.whl *.tar.gz; do
  cp "$file" "$out/.$file.partial"
  mv "$out/.$file.partial" "$out/$file"
  echo "$out/$file"
done
