"""The tf.data side of launch/bench_decode.py: answers each line "MODE FOLDER" with the seconds of one pass.

full    decode_jpeg, antialiased resize of the whole picture, random crop
window  decode_and_crop_jpeg of a random window, antialiased resize of it
What is stored at the target size is not resized.
"""

import sys
import time
from pathlib import Path

import tensorflow as tf

RESIZE, SIZE = map(int, sys.argv[1:])
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


def full(file):
    """uint8 [SIZE, SIZE, 3], the picture resized and then cut."""
    picture = tf.io.decode_jpeg(file, channels=3)
    if tf.reduce_any(tf.shape(picture)[:2] != RESIZE):
        picture = tf.cast(tf.image.resize(picture, (RESIZE, RESIZE), antialias=True), tf.uint8)
    return finish(tf.image.random_crop(picture, (SIZE, SIZE, 3)))


def window(file):
    """uint8 [SIZE, SIZE, 3], only the window decoded and resized."""
    sides = tf.io.extract_jpeg_shape(file)[:2]
    corner = tf.random.uniform([2], maxval=RESIZE - SIZE + 1, dtype=tf.int32)
    box = tf.concat([corner, [SIZE, SIZE]], 0) * tf.tile(sides, [2]) // RESIZE
    picture = tf.io.decode_and_crop_jpeg(file, box, channels=3)
    if tf.reduce_any(sides != RESIZE):
        picture = tf.cast(tf.image.resize(picture, (SIZE, SIZE), antialias=True), tf.uint8)
    return finish(picture)


def finish(picture):
    """Mirrored half the time."""
    return tf.image.random_flip_left_right(picture)


def seconds(data) -> float:
    """One pass."""
    start = time.perf_counter()
    for _ in data:
        pass
    return time.perf_counter() - start


def main():
    made = {}
    for line in sys.stdin:
        if line not in made:
            mode, folder = line.split()
            files = [path.read_bytes() for path in sorted(Path(folder).glob("*.jpg"))]
            options = tf.data.Options()
            options.threading.private_threadpool_size = 1
            options.threading.max_intra_op_parallelism = 1
            data = tf.data.Dataset.from_tensor_slices(files).map({"full": full, "window": window}[mode])
            made[line] = data.with_options(options)
        print(seconds(made[line]), flush=True)


if __name__ == "__main__":
    main()
