#!/usr/bin/env bash
# Trains an ALIGN and an ImageBERT on composed scenes of emoji, and measures what re-ranking by the second brings.
source "$(dirname "$0")/setup.sh"

workdir=runs/scenes
seed=0
overrides=()
for arg in "$@"; do
  case "$arg" in
    -h | --help)
      cat <<'HELP'
bash launch/demo_imagebert.sh [--workdir=DIR] [--seed=N] [--config.KEY=VALUE ..., of all three configs]

Makes a virtual environment in .venv (about a minute), then, on 2 processor cores in about half an hour:
  DIR/align        a dual encoder, trained on scenes of up to three emoji with captions that say where they stand
  DIR/regions/     region features: the boxes of the scenes, seen by the image tower of that model
  DIR/imagebert/   a cross-encoder on those regions, in two stages (web: a third of the captions wrong; clean)
  DIR/negatives.parquet, DIR/finetuned   hard negatives that the dual encoder mines, and the cross-encoder tuned on them
  DIR/rerank/      recall and cost of re-ranking the dual encoder's best K: rerank.json, rerank.html
Run it again to continue where it was stopped. The scenes are composed from drawings, they are no photographs.
HELP
      exit 0
      ;;
    --workdir=*) workdir="${arg#--workdir=}" ;;
    --seed=*) seed="${arg#--seed=}" ;;
    --config.*) overrides+=("$arg") ;;
    *)
      echo "expected --workdir=DIR, --seed=N or --config.KEY=VALUE, found $arg" >&2
      exit 2
      ;;
  esac
done
setup demo
export JAX_NUM_CPU_DEVICES="${JAX_NUM_CPU_DEVICES:-2}"
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
python=.venv/bin/python
# The scenes of configs/align_scenes.py.
scenes() { echo "name=emoji_scenes,split=$1,scenes=$2,held_out_share=0.2,flags=false,concepts=100,captions=places"; }

"$python" -m align_jax.main --config=configs/align_scenes.py --workdir="$workdir/align" \
  --config.seed="$seed" ${overrides[@]+"${overrides[@]}"}
folders=""
for split in train:20000 held_out_scenes:500 held_out:200; do
  name="${split%%:*}"
  folders+="'$workdir/regions/$name',"
  "$python" -m align_jax.regions --boxes=source --model="$workdir/align" --whole --batch_size=64 \
    --data="$(scenes "$name" "${split#*:}")" --out="$workdir/regions/$name"
done
"$python" -m align_jax.main --config=configs/imagebert_demo.py --workdir="$workdir/imagebert" --config.seed="$seed" \
  --config.init.text="$workdir/align" --config.data.regions.path="($folders)" ${overrides[@]+"${overrides[@]}"}
"$python" -m align_jax.mine --model="$workdir/align" --data="$(scenes train 20000)" --out="$workdir/negatives.parquet"
"$python" -m align_jax.main --config=configs/imagebert_demo_retrieval.py --workdir="$workdir/finetuned" \
  --config.seed="$seed" --config.init.checkpoints[0].checkpoint="$workdir/imagebert/clean" \
  --config.data.regions.path="($folders)" --config.data.negatives.path="$workdir/negatives.parquet" \
  ${overrides[@]+"${overrides[@]}"}
for split in held_out_scenes:500 held_out:200; do
  name="${split%%:*}"
  for cross in imagebert/clean finetuned; do
    "$python" -m align_jax.rerank --dual="$workdir/align" --cross="$workdir/$cross" \
      --data="$(scenes "$name" "${split#*:}")" --k=1,2,5,10,20,50 --out="$workdir/rerank/$name/${cross%%/*}"
  done
done
