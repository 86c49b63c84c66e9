"""Second moment normalisation as few passes over memory, one module for each kind of device.

A module of kernels has the types that it takes, `TYPES`, and two functions. x is (N, C, ...), floating; m the second
moment of each channel, q = sqrt(m) + eps; everything about channels is (C,), in single precision at least.

    forward(x, weight, bias, residual, eps, relu) -> y, m
        y = weight x / q + bias, plus residual, rectified, where these are asked for.
    backward(dy, dm, x, weight, m, y, eps, keep) -> dx, dweight, dbias, dz
        dz = dy where y > 0 (everywhere without y); keep says whether it is wanted, for the residual.
        dx = weight/q dz - (weight sum(x dz) / (q^2 n sqrt(m)) - 2 dm/n) x
"""
