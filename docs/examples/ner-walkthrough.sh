#!/usr/bin/env bash
# The commands of docs/ner-walkthrough.md; `make walkthrough` runs them with .venv's programs.
# With a checkpoint of your own as its argument, that is the base.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=build/walkthrough
base=${1:-}
rm -rf "$work"

# Tagged sentences; and where no base was given, a small one, trained on the same sentences without their tags.
python -m yizhi.training.sample_entities --out "$work/data"
if [ -z "$base" ]; then
  base=$work/base
  yizhi synthesize --config "$work/data/config.json" --vocab "$work/data/vocab.txt" --untrained --out "$work/random"
  yizhi pretrain "$work/random" --text "$work/data/plain.txt" --masking bert --line-by-line --max-length 64 \
    --batch-size 32 --max-steps 600 --learning-rate 1e-3 --threads 1 --out "$base"
fi

# The embeddings and the bottom four layers stay as they are.
yizhi finetune "$base" --task tag --train "$work/data/train.txt" --eval "$work/data/dev.txt" --freeze-layers 4 \
  --batch-size 32 --epochs 6 --learning-rate 1e-3 --threads 1 --out "$work/ner"

# Nine artifacts, each verified against the float64 oracle.
yizhi export "$work/ner" --out "$work/release"

# Entity F1 of each on sentences and names that training never saw; at least 95 % of the PyTorch artifact's.
yizhi verify "$work/release" --eval "$work/data/test.txt" --min-relative-f1 0.95

# Size and speed of int8 beside fp32.
python -m benchmarks.int8_speedup "$work/release"

# Use it.
yizhi tag "$work/release/onnx-int8" "记者高志远从青山县发来报道。"
