#!/bin/sh
# All figures against the public peer, and box 128, on a quiet machine of two cores: about an hour and three quarters.
#
#     sh benchmarks/run_comparison.sh OUTPUT_FOLDER [PYTHON_OF_THE_PEER]
#
# Without the second argument the peer is installed below OUTPUT_FOLDER first. What is measured already is kept:
# run it again after an interruption. Times are of two cores without a GPU.
set -eu
output=${1:?give an output folder}
python=${PYTHON:-python}
here=$(dirname "$0")
mkdir -p "$output"

compare() { # name of the folder, then options
    folder=$output/$1
    shift
    "$python" "$here/against_peer.py" --threads 2 --output "$folder" "$@" \
        --peer-environment "$output/peer_environment" ${PEER:+--peer-python "$PEER"}
}
PEER=${2:-}

compare linear64 --sets linear64 --particles 5000 --epochs 10                    # 35 min, the peer 23 of them
compare discrete --sets discrete compositional --particles 3000 --epochs 5       # 25 min, the peer 15 of them
compare linear128 --sets linear128 --particles 2000 --epochs 3                   # 30 min, the peer 18 of them
"$python" "$here/box128.py" --threads 2 --directory "$output/box128" >"$output/box128.json" # 15 min
cat "$output/box128.json"
