"""PSR networks from Torch into gates: readers, the ONNX export, normalisation and quantization.

    file, state dict, nn.Module  --psr, reft-->  Artifact  --normalise-->  Artifact  --quantize-->  gate bytes

A chain of linear layers and ReLUs stays as weights (GateWeights); any other network becomes the bytes of a
gate.onnx. Importing this package loads neither torch nor onnx.
"""
