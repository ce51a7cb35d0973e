#!/usr/bin/env bash
# Makes this machine ready to build bitdial: distribution packages (Debian 12+, Ubuntu 24.04+), then PyTorch in .venv.
# Quick and silent when nothing is missing. The Makefile's head lists the variables.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# ---- packages --------------------------------------------------------------------------------------------------------
# command or header that shows the need is met | package that meets it
needs_commands=(
  'g++|g++' 'make|make' 'cmake|cmake' 'ninja|ninja-build' 'ccache|ccache' 'git|git'
)
# Any one of the packages of a line will do; the first is what gets installed.
needs_libraries=(
  'libcli11-dev' 'libtomlplusplus-dev' 'nlohmann-json3-dev' 'libfmt-dev' 'libgtest-dev'
  'libbenchmark-dev' 'libpng-dev' 'libjpeg-dev libjpeg62-turbo-dev libjpeg-turbo8-dev' 'zlib1g-dev'
  'libcurl4-openssl-dev libcurl4-gnutls-dev' 'libarchive-dev' 'libssl-dev'
)

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

any_installed() {
  local package
  for package in "$@"; do
    installed "$package" && return 0
  done
  return 1
}

# True unless the caller names a LibTorch. CMAKE_PREFIX_PATH may be set for quite other libraries.
use_venv() {
  [ -z "${LIBTORCH:-}" ] || return 1
  local prefix prefixes
  IFS=: read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    for root in "$prefix" "$prefix/torch" "$prefix/libtorch" "$prefix/../.."; do
      [ -e "$root/lib/libtorch_cpu.so" ] && return 1
    done
  done
  return 0
}

missing_packages() {
  local need
  for need in "${needs_commands[@]}"; do
    command -v "${need%%|*}" >/dev/null || echo "${need##*|}"
  done
  for need in "${needs_libraries[@]}"; do
    # shellcheck disable=SC2086
    any_installed $need || echo "${need%% *}"
  done
  # Debian's python3 comes without the module that puts pip into a virtual environment.
  if use_venv && [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
  fi
}

if command -v dpkg-query >/dev/null; then
  mapfile -t missing < <(missing_packages)
  if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
      as_root=(env DEBIAN_FRONTEND=noninteractive)
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n env DEBIAN_FRONTEND=noninteractive)
    else
      die "these packages are missing and this user may not install them; run" \
        "    sudo apt-get install ${missing[*]}" "and then make again."
    fi
    say "installing ${missing[*]}"
    {
      "${as_root[@]}" apt-get update && "${as_root[@]}" apt-get install -y --no-install-recommends "${missing[@]}"
    } >build/apt.log 2>&1 </dev/null || {
      tail -n 5 build/apt.log >&2
      die "apt-get failed (whole log: build/apt.log); install by hand: ${missing[*]}"
    }
  fi
else
  for need in "${needs_commands[@]}"; do
    command -v "${need%%|*}" >/dev/null || die "'${need%%|*}' is missing; on this system install by hand what docs/dependencies.md lists."
  done
fi

# ---- LibTorch --------------------------------------------------------------------------------------------------------
if [ -n "${LIBTORCH:-}" ] && [ ! -e "$LIBTORCH/lib/libtorch_cpu.so" ]; then
  die "LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so; give an unpacked libtorch or the torch folder of a Python wheel."
fi
use_venv || exit 0
version=${TORCH_VERSION:-2.13.0}

# pip writes RECORD last: a broken-off installation has none.
torch_ready() {
  compgen -G ".venv/lib/python3*/site-packages/torch-$version*.dist-info/RECORD" >/dev/null &&
    compgen -G ".venv/lib/python3*/site-packages/numpy/__init__.py" >/dev/null
}
torch_ready && exit 0

if [ ! -x .venv/bin/python ]; then
  "${PYTHON:-python3}" -m venv .venv || die "cannot create .venv with '${PYTHON:-python3} -m venv'; PYTHON=... names another interpreter."
fi
say "installing PyTorch $version into .venv (log: build/pip.log; a CPU-only index as TORCH_INDEX makes it a small download)"
index=()
[ -n "${TORCH_INDEX:-}" ] && index=(--index-url "$TORCH_INDEX")
# numpy: PyTorch's Python side, which tests compare with, warns without it.
if ! .venv/bin/python -m pip install "${index[@]}" "torch==$version" numpy >build/pip.log 2>&1 </dev/null || ! torch_ready; then
  tail -n 5 build/pip.log >&2
  die "PyTorch $version could not be installed with $(.venv/bin/python --version) (whole log: build/pip.log). Either" \
    "    make TORCH_INDEX=URL      takes it from another pip index (the CPU builds' index is on PyTorch's install page)," \
    "    make PYTHON=python3.12    uses another interpreter (remove .venv first), or" \
    "    make LIBTORCH=DIR         uses a LibTorch >= 2.7 that is already there."
fi
