"""Running models on devices with memory of their own: tensors by DLPack, streams, recorded runs."""
