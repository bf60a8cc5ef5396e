"""Export of a model for other programs: a folder in ONNX, in MindIR or with torchvision's weights."""
