"""Curation: from raw pairs to clean shards. `run.curate` is the order of its steps; `rules.py` what is kept."""
