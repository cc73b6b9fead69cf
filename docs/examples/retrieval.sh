#!/usr/bin/env bash
# The commands of docs/retrieval.md: retrieval.sh BASE PASSAGES…
# BASE: a checkpoint, by default what `make demo` trained. PASSAGES: a .json in CMRC 2018's form, or files of lines.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=${WORK:-build/retrieval}
base=${1:-build/demo/trained}
passages=("${@:2}")
[ ${#passages[@]} -gt 0 ] || passages=(yizhi/demo/*.txt)
rm -rf "$work"

# Passages, queries, and pairs of both to train with.
python docs/examples/retrieval.py data "$work" "${passages[@]}"

# An embedder, for the search, and a reranker, for what was found.
how=(--max-length "${MAX_LENGTH:-64}" --batch-size 32 --epochs "${EPOCHS:-6}" --learning-rate "${RATE:-3e-4}" --threads 1)
yizhi train-embeddings "$base" --train "$work/embedder-train.csv" --eval "$work/embedder-dev.csv" \
  "${how[@]}" --out "$work/embedder"
yizhi finetune "$base" --task classify --column sentence1 --pair-column sentence2 --label-column label \
  --train "$work/reranker-train.csv" --eval "$work/reranker-dev.csv" "${how[@]}" --out "$work/reranker"
yizhi export "$work/embedder" --out "$work/embedder-release" --pooling mean --normalize --target onnx --target onnx-int8
yizhi export "$work/reranker" --out "$work/reranker-release" --target onnx --target onnx-int8

for target in onnx onnx-int8; do
  echo "$target"
  embedder=$work/embedder-release/$target reranker=$work/reranker-release/$target found=$work/$target
  mkdir -p "$found"

  # Vectors of passages and queries, an index of the passages' vectors, and each query's nearest.
  yizhi embed "$embedder" "$work/documents.jsonl" --column document --truncate --output "$found/documents.npy"
  yizhi embed "$embedder" "$work/queries.jsonl" --column query --output "$found/queries.npy"
  python docs/examples/retrieval.py search "$work" "$found/documents.npy" "$found/queries.npy" "$found/candidates.jsonl"

  # The same candidates, in the reranker's order.
  yizhi rerank "$reranker" --pairs "$found/candidates.jsonl" --output "$found/scores.jsonl"
  python docs/examples/retrieval.py score "$work" "$found/candidates.jsonl" "$found/scores.jsonl"
done

# One query, with every passage.
yizhi rerank "$work/reranker-release/onnx-int8" "${QUERY:-吃骨头。}" "$work/documents.jsonl" --top-k 3
