"""What any config.json of transformers may hold besides its model's own sizes."""

from align_jax.interop.accounts import Attributes

# Of models that are not read: those with a decoder, with layers that look at another model, with heads taken out.
PLAIN = {
    "is_encoder_decoder": False,
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": ({}, None),
    "quantization_config": None,
}

SAVED_BY = "says who saved the file, and how"
FRESH = "of fresh weights, and these are not fresh"
OUTPUTS = "chooses what a call returns or keeps"
SAME_NUMBERS = "chooses how the same numbers are computed"
HEAD = "of a head that is not read"
GENERATION = "of text that is generated one piece after another, which no encoder does"

HARMLESS = {
    **dict.fromkeys(("_name_or_path", "name_or_path", "architectures", "*transformers_version", "auto_map"), SAVED_BY),
    **dict.fromkeys(("dtype", "torch_dtype"), "the tensors have dtypes of their own"),
    **dict.fromkeys(("initializer_range", "initializer_factor", "initializer_std"), FRESH),
    **dict.fromkeys(("output_*", "return_dict*", "use_cache", "use_return_dict", "torchscript"), OUTPUTS),
    **dict.fromkeys(
        ("chunk_size_feed_forward", "gradient_checkpointing", "use_bfloat16", "*attn_implementation*",
         "tf_legacy_loss", "experts_implementation"), SAME_NUMBERS,
    ),
    **dict.fromkeys(
        ("id2label", "label2id", "num_labels", "_num_labels", "problem_type", "finetuning_task", "classifier_dropout",
         "tie_word_embeddings"), HEAD,
    ),
    **dict.fromkeys(
        ("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
         "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "*repetition_penalty", "length_penalty",
         "*no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_*_token_id",
         "remove_invalid_values", "exponential_decay_length_penalty", "*suppress_tokens", "decoder_start_token_id",
         "sep_token_id", "prefix", "task_specific_params", "output_past"), GENERATION,
    ),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "tokenizer_class"), "the tokenizer's own files say it"),
}  # fmt: skip


def plain(attributes: Attributes) -> None:
    """Refuses the models that are `PLAIN` no more, ignores what is `HARMLESS`; to be called once all else is taken."""
    attributes.expect(PLAIN)
    attributes.ignore(HARMLESS)
