/*
 * optim: one step of an inner optimiser over the whole flat vector, in one launch.
 *
 *   w  (n)  float32  in, out   parameters, padded with zeros, which stay zeros
 *   g  (n)  float32  in        gradient of the mean loss
 *   m  (n)  float32  in, out   momentum (SGD) or first moment (AdamW)
 *   v  (n)  float32  in, out   second moment (AdamW)
 *
 * g is flushed by flush_tiny before it is used, m and w after. v, whose values are squares, is
 * flushed where it would be denormal.
 *
 *   sgd    m = momentum * m + (g + decay * w);  w = w - rate * m
 *          with PyTorch's convention: the rate is outside the momentum.
 *   adamw  m = beta1 * m + rest1 * g;  v = beta2 * v + rest2 * g^2
 *          u = (m * unbias1) / (sqrt(v * unbias2) + epsilon);  w = w - rate * (u + decay * w)
 *          rest = 1 - beta and unbias = 1 / (1 - beta^t) come from the host, where
 *          p2ptrain/train/optimizers.py says how they are computed.
 *
 * The decay is decoupled in AdamW and applies to every parameter, biases too. One work-item for a
 * value, global size n (a multiple of 4096), local size 64.
 *
 * Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
 * Loshchilov and Hutter, Decoupled weight decay regularization, 2019, arXiv:1711.05101.
 *
 * numpy twins: sgd and adamw in p2ptrain/device/reference.py
 */

#include "detmath.cl"

__kernel void sgd(__global float *restrict w, __global const float *restrict g,
                  __global float *restrict m, const float rate, const float momentum,
                  const float decay)
{
    const int i = get_global_id(0);
    const float gradient = fused(decay, w[i], flush_tiny(g[i]));
    const float moved = flush_tiny(fused(momentum, m[i], gradient));
    m[i] = moved;
    w[i] = flush_tiny(fused(-rate, moved, w[i]));
}

__kernel void adamw(__global float *restrict w, __global const float *restrict g,
                    __global float *restrict m, __global float *restrict v,
                    const float rate, const float decay, const float beta1, const float rest1,
                    const float beta2, const float rest2, const float epsilon,
                    const float unbias1, const float unbias2)
{
    const int i = get_global_id(0);
    const float gradient = flush_tiny(g[i]);
    const float first = flush_tiny(fused(beta1, m[i], rest1 * gradient));
    const float second = flush_denormal(fused(beta2, v[i], rest2 * (gradient * gradient)));
    const float u = det_div(first * unbias1, det_sqrt(second * unbias2) + epsilon);
    m[i] = first;
    v[i] = second;
    w[i] = flush_tiny(fused(-rate, fused(decay, w[i], u), w[i]));
}
