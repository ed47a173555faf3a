"""The mathematics of the method as pure functions of tensors: masking, importance weights, exact enumeration.

Time runs from t = 0 (every answer position masked) to t = 1 (clean text x_1).
"""
