"""tf.train.Example, the record of TFRecord and ArrayRecord files, without TensorFlow: tfds brings the message."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from align_jax.data.source import BadExample

Value = bytes | str | int | float | Sequence[bytes | str] | Sequence[int] | Sequence[float]


def encode(features: Mapping[str, Value]) -> bytes:
    """The serialized Example. Texts become UTF-8 bytes; a sequence keeps its order; an empty one keeps its name."""
    example = _message()
    for name, value in features.items():
        values = list(value) if isinstance(value, Sequence) and not isinstance(value, bytes | str) else [value]
        feature = example.features.feature[name]
        if not values or isinstance(values[0], bytes | str):
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString(deterministic=True)  # else the order of a map is that of a salted hash


def decode(serialized: bytes) -> dict[str, list[bytes] | list[int] | list[float]]:
    """Name -> values, all as lists. BadExample where it is no Example."""
    example = _message()
    try:
        example.ParseFromString(serialized)
    except DecodeError as error:
        raise BadExample("record unreadable") from error
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        found[name] = list(getattr(feature, kind).value) if kind else []
    return found


def _message() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2  # half a second, and only some sources need it

    proto: Any = tf_example_pb2  # its members are made at run time
    return proto.Example()
