"""Ways out: a classifier as ONNX or for torch, and the features as one plain HDF5 file."""
