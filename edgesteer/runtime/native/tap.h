/* The tap: llama.cpp's eval callback, answered in C.
 *
 * In:  a plan (operations per block), and for every decode an announcement: the
 *      batch's rows, which of them want logits, and a strength per term and row.
 * Out: l_out-N edited in place, for each row t in scope
 *          h' = h + sum_i strength[i][t] * coefficient_i(h, N) * direction_i[N]
 *      where every coefficient reads the h from before any steering at N; and, on
 *      request, the coefficients (record) and the activations (capture).
 *
 * It owns its staging buffers and nothing else: directions, gates and the buffers
 * of an announcement belong to the caller and outlive the decode. It knows ggml
 * only through functions that ggml exports, handed over at creation, so it needs
 * no header of ggml and works where a tensor is not in host memory.
 *
 * A callback cannot fail a decode (returning false breaks one split and yields
 * wrong logits). So the first error is latched, further asks are declined, and
 * the caller looks at es_tap_finish(). An overflow concerns its own row alone:
 * that row stays as it came in, in this block and in those above, so that nothing
 * of it reaches the memory, and the other rows are steered as if it were not there.
 */
#ifndef EDGESTEER_TAP_H
#define EDGESTEER_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ES_API __declspec(dllexport)
#else
#define ES_API __attribute__((visibility("default")))
#endif

#define ES_ABI 5

typedef struct {
    const char *(*get_name)(const void *tensor);
    int64_t (*nelements)(const void *tensor);
    int64_t (*nrows)(const void *tensor);
    size_t (*nbytes)(const void *tensor);
    bool (*is_contiguous)(const void *tensor);
    void (*tensor_get)(const void *tensor, void *data, size_t offset, size_t size);
    void (*tensor_set)(void *tensor, const void *data, size_t offset, size_t size);
} es_ggml;

/* coefficient[rows] = gate(activation[rows][n_embd], layer); 0 on success. */
typedef int (*es_gate_fn)(void *self, int32_t layer, const float *activation, int32_t rows,
                          float *coefficient);

typedef struct {
    int32_t layer;          /* block N */
    int32_t term;           /* index into the announcement's strengths */
    const float *direction; /* [n_embd] */
    es_gate_fn gate;        /* NULL: coefficient 1 */
    void *gate_self;
} es_op;

typedef struct {
    int32_t n_rows;
    const int8_t *wants_logits; /* [n_rows] */
    const float *strength;      /* [n_terms][n_rows]; 0 = not in scope */
    float *record;              /* NULL or [n_terms][n_rows][n_layer]: coefficients */
    float *const *capture;      /* NULL or [n_layer] of NULL or [n_rows][n_embd]: h' */
    const float *const *replace;/* NULL or [n_layer] of NULL or [n_rows][n_embd]: put in h's place */
    uint64_t *source;           /* NULL or [n_layer]: address of the second tensor that l_out-N is made of */
    uint64_t source_at;         /* where a ggml_tensor keeps it; found by the caller, not known here */
    int8_t *overflowed;         /* [n_rows]: set to 1 for a row that steering would have made too large */
} es_announcement;

enum es_error {
    ES_OK = 0,
    ES_UNANNOUNCED = 1, /* a decode that did not pass through the wrapper */
    ES_ROWS = 2,        /* a row count that does not fit the announced batch */
    ES_SHAPE = 3,       /* l_out is not contiguous F32 of width n_embd */
    ES_GATE = 4,        /* a gate failed */
    ES_OVERFLOW = 5,    /* a steered row is Inf or NaN, or so large that a later sum may be */
    ES_MEMORY = 6,      /* out of memory */
};

typedef struct {
    int32_t code, layer;
    int64_t found, expected;
    int32_t op; /* the operation whose gate failed, or -1 */
} es_status;

typedef struct es_tap es_tap;

ES_API int es_abi(void);
ES_API es_tap *es_tap_new(const es_ggml *ggml);
ES_API void es_tap_free(es_tap *tap);
ES_API void es_tap_model(es_tap *tap, int32_t n_layer, int32_t n_embd);
/* ops are sorted by layer, then in the plan's canonical order; copied. ES_SHAPE for a block or term that
 * does not exist, ES_MEMORY. Must follow es_tap_model before a batch is announced. */
ES_API int es_tap_plan(es_tap *tap, const es_op *ops, int32_t n_ops, int32_t n_terms);
ES_API int es_tap_announce(es_tap *tap, const es_announcement *batch);
/* The latched code, and all of it in *status. */
ES_API int es_tap_finish(es_tap *tap, es_status *status);
ES_API bool es_tap_callback(void *tensor, bool ask, void *user_data);

#endif
