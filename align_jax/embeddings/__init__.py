"""Embeddings on disk, laid out as clip-retrieval's `inference` does, so that autofaiss and its own tools read them.

  img_emb/img_emb_00.npy          [n, D], unit rows
  text_emb/text_emb_00.npy        the same of the captions; not there where none are read
  metadata/metadata_00.parquet    image_path, caption, id, group, label, class, row
  left_out/left_out_00.parquet    row, id and reason of each record that has no row above
  parts/part_00.json              what is counted; written last: the part is finished
  parts/part_00.unfinished/       pieces of a part that is being made
  embeddings.json                 whose they are: weights, data, options

Row i of the first three are one sample. `row` counts the records of the source, whose images and captions are
`image_path` (the id, where they are no files) and `caption`. A part is some consecutive records, and is what one
process writes, once; a part none of whose records can be used has no file in the first three folders.
"""
