/* A gate evaluated by ONNX Runtime through its C API, without entering Python.
 *
 * In:  the bytes of gate.onnx and the OrtApiBase that libonnxruntime exports.
 * Out: a function that fits es_gate_fn. Sessions are warm and single-threaded; the
 *      input is the tap's staging buffer and the output its coefficient buffer, bound
 *      once and bound again only when a pointer or a row count changes.
 */
#ifndef EDGESTEER_ORT_H
#define EDGESTEER_ORT_H

#include "tap.h"

typedef struct es_ort_gate es_ort_gate;

ES_API es_ort_gate *es_ort_gate_new(const void *api_base, const void *model, size_t size, int32_t n_layer,
                                    int32_t n_embd, char *error, size_t error_size);
ES_API void es_ort_gate_free(es_ort_gate *gate);
ES_API int es_ort_gate_run(void *gate, int32_t layer, const float *activation, int32_t rows, float *coefficient);
ES_API const char *es_ort_gate_error(const es_ort_gate *gate);

#endif
