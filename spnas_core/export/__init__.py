"""The model taken home: a folder that other programs run, in ONNX, in MindIR or in torchvision's weights."""
