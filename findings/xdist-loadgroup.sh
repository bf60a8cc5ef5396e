#!/usr/bin/env bash
# pytest 9.2.0 with pytest-xdist 3.8.0: `--dist loadgroup` does not keep the tests of one `xdist_group` on one worker.
#
# Expected (documentation of pytest-xdist, "Running tests across multiple CPUs", loadgroup): tests that share a group run on the same worker.
# Seen with pytest 9.1.1: all six tests on one worker, their node ids end in "@one".
# Seen with pytest 9.2.0: the six tests are shared between both workers, and the node ids have no suffix: the group is ignored without a word.
# Why: xdist writes the group into the private attribute `_nodeid` of an item, which pytest 9.2.0 does not read for `nodeid` any more.
#
# Consequence for this project: tests/conftest.py groups files by the hook pytest_xdist_make_scheduler. Exit status 0: as described.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/test_group.py" <<'EOF'
import time
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_of_the_group(number):
    time.sleep(0.3)
EOF
python3 -m venv "$folder/venv"
cd "$folder"

workers() {  # of all tests, by pytest $1: how many, and how many node ids name the group
  venv/bin/python -m pip install --quiet --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0
  venv/bin/python -m pytest -p no:cacheprovider -n 2 --dist loadgroup -v test_group.py > log
  echo "$(grep -oE '^\[gw[0-9]+\]' log | sort -u | wc -l) workers, $(grep -cE 'PASSED .*@one' log || true) of 6 node ids with the group"
}

before=$(workers 9.1.1) now=$(workers 9.2.0)
echo "pytest 9.1.1, pytest-xdist 3.8.0: $before"
echo "pytest 9.2.0, pytest-xdist 3.8.0: $now"
[ "$before" = "1 workers, 6 of 6 node ids with the group" ] && [ "$now" = "2 workers, 0 of 6 node ids with the group" ]
