"""PSR networks from Torch into gates: readers, the ONNX export, normalisation and quantization.

    file, state dict, nn.Module  --psr, reft-->  Artifact  --normalise-->  Artifact  --quantize-->  gate bytes

A chain of linear layers and ReLU stays weights (GateWeights); everything else becomes the bytes of a
gate.onnx. Importing this package loads neither torch nor onnx.
"""
