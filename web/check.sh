#!/usr/bin/env bash
# Rebuilds the pages from web/src with the locked versions, and fails where the committed files differ.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --no-audit --no-fund --silent
npm run --silent verify
echo "the committed pages are what web/src gives"
