"""The values of training's settings, each list once. No framework is imported here."""

METHODS = ("full", "lora", "adapter")
# Pfeiffer's, Houlsby's and He's adapters, by the adapters library's names.
BOTTLENECKS = ("seq_bn", "double_seq_bn", "par_bn")
PRECISIONS = ("fp32", "bf16")
# Of masked-language models: tokens; whole words; runs of words; such runs, with similar words in their place.
MASKING = ("bert", "wwm", "ngram", "macbert")
# Of two segments: whether they follow each other; which comes first.
PAIRS = ("nsp", "sop")
# Of sentence embeddings: scored pairs; plain text.
OBJECTIVES = ("cosent", "simcse")
EMBEDDING_POOLINGS = ("mean", "cls")
