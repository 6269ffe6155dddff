#!/usr/bin/env bash
# Build the source distribution, and the wheel from it, into dist/; install each in a clean
# environment outside the checkout and run the smoke test there. An import inside the checkout
# would find the checkout and prove nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
python=${1:-.venv/bin/python}

rm -rf dist
"$python" -m build --no-isolation --outdir dist .

# The wheel goes to embedded computers: this catches logs, checkpoints and videos left in envs/.
size=$(stat -c %s dist/*.whl)
if ((size > 20000000)); then
    echo "the wheel has $size bytes, more than 20 MB: see what is in it with unzip -l" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# smoke_test PYTHON DISTRIBUTION [--train]
smoke_test() {
    local interpreter=$1 distribution=$2 option=${3:-} environment folder
    environment=$work/venv-$(basename "$interpreter")-$(basename "$distribution")
    folder=$(mktemp -d -p "$work")
    [[ -d $environment ]] || "$interpreter" -m venv "$environment"
    "$environment/bin/pip" install --quiet --constraint constraints.txt \
        "$distribution${option:+[train]}"
    echo "$(basename "$distribution")${option:+[train]}:"
    # shellcheck disable=SC2086  # no option is no word
    (cd "$folder" && PYTHONPATH='' "$environment/bin/python" "$checkout/tools/smoke_test.py" $option)
}

base=$("$python" -c 'import sys; print(sys._base_executable)')
for distribution in "$checkout"/dist/*.whl "$checkout"/dist/*.tar.gz; do
    smoke_test "$base" "$distribution"
done
# The same wheel for the robot's side on the oldest Python, where there is one.
if python3.10 -c 'import ensurepip' 2>/dev/null; then
    smoke_test python3.10 "$(echo "$checkout"/dist/*.whl)"
else
    echo "no python3.10 here: the robot's side was not tried on it"
fi
smoke_test "$base" "$(echo "$checkout"/dist/*.whl)" --train
