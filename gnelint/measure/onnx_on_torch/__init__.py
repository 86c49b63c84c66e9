"""ONNX models on torch operators: a table of kernels, and an interpreter that runs a model with autograd recording.

`table` maps domain, operator and opset to a kernel; each family of operators is a file. `interpreter` walks a model:
weights become leaf tensors, functions are expanded, bodies of control flow are run. What no kernel covers makes the
model "not verifiable", with the operator's name.
"""
