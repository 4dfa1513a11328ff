/* A gate of linear layers and ReLU, evaluated without any library: what gate.gguf holds.
 *
 * In:  for every steered block its layers, first to last, each relu(x W + b); the last has width 1.
 * Out: coefficient[rows] for activation[rows][n_embd].
 *
 * This file and gate.c stand alone: a host without ONNX Runtime compiles them as they are and
 * hands over the tensors of gate.gguf, whose weights lie in memory in just this order.
 * A gate owns copies of its weights and its scratch memory, so one gate serves one thread.
 */
#ifndef EDGESTEER_GATE_H
#define EDGESTEER_GATE_H

#include <stdint.h>

#if defined(_WIN32)
#define ES_GATE_API __declspec(dllexport)
#else
#define ES_GATE_API __attribute__((visibility("default")))
#endif

typedef struct es_gate es_gate;

/* NULL when out of memory. */
ES_GATE_API es_gate *es_gate_new(int32_t n_layer, int32_t n_embd);
ES_GATE_API void es_gate_free(es_gate *gate);

/* Append a layer to `block`: weight[width][n_in], one unit's weights side by side, bias[width];
 * n_in is the width of the layer before, or n_embd. 0 on success, 1 when out of memory, 2 for a
 * block outside 0..n_layer-1 or a width below 1. */
ES_GATE_API int es_gate_add(es_gate *gate, int32_t block, int32_t width, const float *weight, const float *bias);

/* 0 on success; 1 for a block without layers, or whose last layer is wider than 1. */
ES_GATE_API int es_gate_run(void *gate, int32_t block, const float *activation, int32_t rows, float *coefficient);

#endif
