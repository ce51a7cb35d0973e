#!/usr/bin/env bash
# Formats the sources as .clang-format says; with --check it only fails if one is not. Versions of clang-format differ
# in detail, so only version 14 counts. Exit code 77: it is not here, nothing was done.
#
# usage: format.sh [--check]
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in "${CLANG_FORMAT:-clang-format-14}" clang-format; do
  if command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.'; then
    mode=(-i)
    [ "${1:-}" = --check ] && mode=(--dry-run --Werror)
    find bitdial tests benchmarks examples \( -name '*.h' -o -name '*.cpp' \) -print0 | xargs -0 "$tool" "${mode[@]}"
    exit 0
  fi
done
echo "skipped: clang-format 14 is not here (packages clang-format-14, or clang-format on Debian 12)"
exit 77
