/*
 * residual: the addition where two branches of a network meet, or their gradients.
 *
 *   a, b, y  (n)  float32, of any shape
 *
 *   add_forward  y = flush_tiny(a + b), then 0 where it is <= 0 if relu is not 0
 *
 * The gradient of a and of b is that of y, through relu_backward of elementwise.cl if there is a ReLU;
 * where a value went into two branches, theirs are added by the same kernel. y may be a or b, so
 * nothing here is restrict. A NaN passes through the ReLU.
 *
 * One work-item for `span` values that lie side by side: local size 64 and span 1 on GPUs, local
 * size 1 and a long span on CPUs, where one work-item is one task with a vectorised loop.
 *
 * He et al., Deep residual learning for image recognition, 2015, arXiv:1512.03385.
 * numpy twin: p2ptrain/device/reference_residual.py
 */

#include "common.cl"

__kernel void add_forward(__global const float *a, __global const float *b, __global float *y,
                          const int n, const int span, const int relu)
{
    const size_t first = (size_t)get_global_id(0) * span;
    const size_t last = MIN((size_t)n, first + span);
    if (relu)
        for (size_t i = first; i < last; i++) {
            const float sum = a[i] + b[i];
            y[i] = sum <= 0.0f ? 0.0f : flush_tiny(sum);
        }
    else
        for (size_t i = first; i < last; i++)
            y[i] = flush_tiny(a[i] + b[i]);
}
