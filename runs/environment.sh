# Sourced by the scripts beside it: makes .venv and installs into it what pyproject.toml asks for.
# `environment run` has what nightschool needs; `environment dev` adds what its tests need, `corpora` what the hub does.
# Installs only when pyproject.toml has changed since the last time, so that a second run needs no network.
#
# Without a GPU the CPU build of torch is wanted. pip takes it wherever it finds it: on macOS from its usual index; on
# Linux set PIP_EXTRA_INDEX_URL to PyTorch's own CPU index, or PIP_FIND_LINKS to a folder with the wheel. Else pip
# takes the build for CUDA, which works as well without a GPU and is some gigabytes larger.

environment() {
    local extra=$1 python=${PYTHON:-python3} stamp what
    stamp=$(cksum <pyproject.toml)
    if [ "$(cat ".venv/installed-$extra" 2>/dev/null)" = "$stamp" ]; then return; fi

    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "nightschool needs Python 3.11 or newer as python3; PYTHON=/path/to/python names another" >&2
        exit 2
    fi
    if [ ! -x .venv/bin/pip ]; then
        "$python" -m venv .venv || { echo "cannot make .venv; on Debian: apt install python3-venv" >&2; exit 2; }
    fi

    what=(-e .)
    if [ "$extra" != run ]; then what=(-e ".[$extra]"); fi
    if ! command -v nvidia-smi >/dev/null; then what+=('torch==2.13.0'); fi
    announce "${what[@]}"
    .venv/bin/pip install --quiet "${what[@]}" >&2
    echo "$stamp" >.venv/installed-run
    echo "$stamp" >".venv/installed-$extra"
}

# Say what pip is about to download, and how large it is.
announce() {
    echo "looking up what is to be downloaded ..." >&2
    .venv/bin/pip install --quiet --dry-run --report - "$@" 2>/dev/null | .venv/bin/python runs/announce.py >&2 2>/dev/null ||
        echo "downloading torch and some small packages: about 0.3 GB, or 3 GB with CUDA" >&2
}
