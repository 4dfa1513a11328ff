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

/* What shape a folded graph gives its coefficients. */
enum es_ort_shape { ES_ORT_ROWS = 0 /* [rows] */, ES_ORT_ROW = 1 /* [1, rows] */, ES_ORT_COLUMN = 2 /* [rows, 1] */, ES_ORT_SHAPES };

ES_API es_ort_gate *es_ort_gate_new(const void *api_base, const void *model, size_t size, int32_t n_layer,
                                    int32_t n_embd, char *error, size_t error_size);
ES_API void es_ort_gate_free(es_ort_gate *gate);

/* A session for this block alone, from a graph whose only input is `activation`. What is cold in the
 * caches costs most, so less of ONNX Runtime is gone through: no look-ups, and inputs bound beforehand.
 * 0 on success. */
ES_API int es_ort_gate_fold(es_ort_gate *gate, int32_t layer, const void *model, size_t size, int32_t shape);
ES_API void es_ort_gate_unfold(es_ort_gate *gate, int32_t layer);

ES_API int es_ort_gate_run(void *gate, int32_t layer, const float *activation, int32_t rows, float *coefficient);
ES_API const char *es_ort_gate_error(const es_ort_gate *gate);

#endif
