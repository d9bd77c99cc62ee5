#!/usr/bin/env bash
# `zensical build --strict` finds a link to a page that is not there and aborts, but passes over a picture that is not
# there, and over what griffe warns of in a docstring (an argument that the function does not have): the build ends with
# exit code 0.
#
# Seen 2026-11-28 with Zensical 0.0.73, mkdocstrings-python 2.0.11, Python 3.11.7, one fault at a time:
#   picture 0
#   docstring 0
#   page 1
# A guess that fails: "a site that builds with --strict shows all of its pictures".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  zensical==0.0.73 mkdocstrings==1.0.8 mkdocstrings-python==2.0.11 griffelib==2.4.1
cd "$folder"
cat > module.py <<'PY'
"""A module."""


def add(a: int, b: int) -> int:
    """Add.

    Args:
        a: one number.
        c: not there.
    """
    return a + b
PY
cat > zensical.toml <<'TOML'
[project]
site_name = "Probe"
[project.plugins.mkdocstrings.handlers.python]
paths = ["."]
TOML
mkdir docs
found=""
for what in picture docstring page; do
  case $what in
    picture) text='![A picture](gone.png)' ;;
    docstring) text='::: module.add' ;;
    page) text='[A page](gone.md)' ;;
  esac
  printf '# Probe\n\n%s\n' "$text" > docs/index.md
  code=0
  venv/bin/zensical build --clean --strict > zensical.txt 2>&1 || code=$?
  line="$what $code"
  echo "$line"
  found="$found$line;"
done
test "$found" = "picture 0;docstring 0;page 1;"
