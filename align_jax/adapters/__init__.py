"""Models of ours where other libraries expect theirs: objects of the same shape, with tensors of PyTorch."""
