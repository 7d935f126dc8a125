#!/bin/sh
# Makes results.tar.xz and names.json: results as version 0.1.0 left them at commit 89c9399, before the jobs shared
# one skeleton. It is kept as a description; run it on a checkout of that commit only (PYTHONPATH), in an empty folder:
#
#     git worktree add older 89c9399; PYTHONPATH=$PWD/older sh tests/jobs/older_results/make.sh
#
# The archive leaves out what a Continue makes again (preprocessed images, checkpoints of a finished training, reports).
set -e
here=$(cd "$(dirname "$0")" && pwd)
run="python -m cryodrgn_ext"
export OMP_NUM_THREADS=1
$run simulate --o project --particles 150 --box 16 --pixel_size_A 20 --snr 1 --angle 60 --seed 3
cd project
$run train --in_parts particles.star --o External/train --engine subspace --zdim 2 --states 2 --volumes 2 --device cpu \
    --seed 1
$run abinit --in_parts particles.star --o External/abinit --starts 2 --zdim 1 --volumes 1 --device cpu --seed 1
$run validate External/train --o External/validate --state 0 --random_subsets 12 --device cpu
$run landscape External/train --o External/landscape --sketch 20 --clusters 2 --components 2 --traversals 0 --bootstrap 2
$run trajectory External/train --o External/trajectory --frames 2
cd ..
python "$here/list_names.py" project > "$here/names.json"
find project -name report.html -delete -o -name logfile.pdf -delete -o -name .lock -delete
rm -rf project/External/*/checkpoint/images project/External/*/checkpoint/*/training \
    project/External/*/checkpoint/training project/External/*/checkpoint/search project/truth.npz \
    project/reference.mrc project/mask.mrc project/External/landscape project/External/validate \
    project/External/trajectory
tar cJf "$here/results.tar.xz" project
