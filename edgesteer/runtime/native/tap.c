#include "tap.h"

#include <stdlib.h>
#include <string.h>

struct es_tap {
    es_ggml ggml;
    int32_t n_layer, n_embd;

    es_op *ops;
    int32_t n_ops, n_terms;
    int32_t *first_op; /* [n_layer + 1]: the operations of block N are first_op[N]..first_op[N+1] */

    bool announced;
    es_announcement batch;
    int32_t start, rows;  /* the ubatch: batch rows start..start+rows */
    int32_t n_outputs;    /* rows of the ubatch that want logits */
    bool *term_acts;      /* [n_terms]: some row of the ubatch is in the term's scope */

    float *h, *coef;      /* staging: [capacity][n_embd], [ops of a block][capacity] */
    int32_t capacity, max_block_ops;
    int32_t *row_of;      /* [capacity]: batch row of each staged row */

    es_status status;
};

int es_abi(void) { return ES_ABI; }

static void latch(es_tap *tap, int code, int32_t layer, int64_t found, int64_t expected, int32_t op) {
    /* an error of the whole decode outweighs one of a row */
    if (tap->status.code == ES_OK || (tap->status.code == ES_OVERFLOW && code != ES_OVERFLOW)) {
        tap->status = (es_status){code, layer, found, expected, op};
    }
}

/* Whether the tap may go on in this decode. */
static bool sound(const es_tap *tap) {
    return tap->status.code == ES_OK || tap->status.code == ES_OVERFLOW;
}

es_tap *es_tap_new(const es_ggml *ggml) {
    es_tap *tap = calloc(1, sizeof *tap);
    if (tap) tap->ggml = *ggml;
    return tap;
}

void es_tap_free(es_tap *tap) {
    if (!tap) return;
    free(tap->ops);
    free(tap->first_op);
    free(tap->term_acts);
    free(tap->h);
    free(tap->coef);
    free(tap->row_of);
    free(tap);
}

void es_tap_model(es_tap *tap, int32_t n_layer, int32_t n_embd) {
    tap->n_layer = n_layer;
    tap->n_embd = n_embd;
    /* staging is of the old width, and operations are of the old model */
    tap->capacity = tap->n_ops = 0;
    free(tap->first_op);
    tap->first_op = NULL;
}

int es_tap_plan(es_tap *tap, const es_op *ops, int32_t n_ops, int32_t n_terms) {
    for (int32_t i = 0; i < n_ops; ++i) {
        bool layer = ops[i].layer >= 0 && ops[i].layer < tap->n_layer;
        if (!layer || ops[i].term < 0 || ops[i].term >= n_terms) return ES_SHAPE;
    }
    es_op *own = malloc(sizeof *own * (size_t)(n_ops ? n_ops : 1));
    int32_t *first = calloc((size_t)tap->n_layer + 1, sizeof *first);
    bool *acts = calloc((size_t)(n_terms ? n_terms : 1), sizeof *acts);
    if (!own || !first || !acts) {
        free(own); free(first); free(acts);
        return ES_MEMORY;
    }
    if (n_ops) memcpy(own, ops, sizeof *own * (size_t)n_ops);
    for (int32_t i = 0; i < n_ops; ++i) first[ops[i].layer + 1]++;
    int32_t widest = 0;
    for (int32_t n = 0; n < tap->n_layer; ++n) {
        if (first[n + 1] > widest) widest = first[n + 1];
        first[n + 1] += first[n];
    }
    free(tap->ops); free(tap->first_op); free(tap->term_acts);
    tap->ops = own;
    tap->first_op = first;
    tap->term_acts = acts;
    tap->n_ops = n_ops;
    tap->n_terms = n_terms;
    /* the coefficient buffer depends on the widest block; gates stay bound to it where it is wide enough */
    if (widest > tap->max_block_ops) {
        tap->max_block_ops = widest;
        tap->capacity = 0;
    }
    return ES_OK;
}

static bool reserve(es_tap *tap, int32_t rows) {
    if (rows <= tap->capacity) return true;
    size_t n = (size_t)rows, ops = (size_t)(tap->max_block_ops ? tap->max_block_ops : 1);
    float *h = malloc(n * (size_t)tap->n_embd * sizeof *h);
    float *coef = malloc(n * ops * sizeof *coef);
    int32_t *row_of = malloc(n * sizeof *row_of);
    if (!h || !coef || !row_of) {
        free(h); free(coef); free(row_of);
        return false;
    }
    free(tap->h); free(tap->coef); free(tap->row_of);
    tap->h = h;
    tap->coef = coef;
    tap->row_of = row_of;
    tap->capacity = rows;
    return true;
}

int es_tap_announce(es_tap *tap, const es_announcement *batch) {
    tap->status = (es_status){ES_OK, -1, 0, 0, -1};
    tap->announced = false;
    if (!tap->first_op) return ES_SHAPE; /* no plan yet for this model */
    if (!reserve(tap, batch->n_rows)) return ES_MEMORY;
    tap->batch = *batch;
    tap->start = tap->rows = tap->n_outputs = 0;
    tap->announced = true;
    return ES_OK;
}

int es_tap_finish(es_tap *tap, es_status *status) {
    if (tap->announced && tap->start + tap->rows != tap->batch.n_rows) {
        latch(tap, ES_ROWS, 0, tap->start + tap->rows, tap->batch.n_rows, -1);
    }
    *status = tap->status;
    tap->announced = false;
    tap->status = (es_status){ES_OK, -1, 0, 0, -1};
    return status->code;
}

/* "l_out-12" -> 12; -1 for any other name. */
static int32_t block_of(const char *name) {
    if (name[0] != 'l' || strncmp(name, "l_out-", 6) != 0) return -1;
    int32_t n = 0;
    const char *c = name + 6;
    if (*c < '0' || *c > '9') return -1;
    for (; *c >= '0' && *c <= '9' && n < 100000; ++c) n = n * 10 + (*c - '0');
    return *c ? -1 : n;
}

/* Block 0 opens a ubatch: count its rows, and see which terms act on any of them. */
static void open_ubatch(es_tap *tap, const void *tensor) {
    const es_announcement *b = &tap->batch;
    tap->start += tap->rows;
    int64_t rows = tap->ggml.nrows(tensor);
    if (rows < 0 || rows > b->n_rows - tap->start) {
        latch(tap, ES_ROWS, 0, tap->start + rows, b->n_rows, -1);
        tap->rows = 0;
        return;
    }
    tap->rows = (int32_t)rows;
    tap->n_outputs = 0;
    for (int32_t t = tap->start; t < tap->start + tap->rows; ++t) tap->n_outputs += b->wants_logits[t] != 0;
    for (int32_t i = 0; i < tap->n_terms; ++i) {
        const float *s = b->strength + (size_t)i * (size_t)b->n_rows + tap->start;
        bool acts = false;
        for (int32_t t = 0; t < tap->rows && !acts; ++t) acts = s[t] != 0.0f;
        tap->term_acts[i] = acts;
    }
}

static bool wanted(const es_tap *tap, int32_t layer) {
    const es_announcement *b = &tap->batch;
    if (b->capture && b->capture[layer]) return true;
    if (b->replace && b->replace[layer]) return true;
    for (int32_t i = tap->first_op[layer]; i < tap->first_op[layer + 1]; ++i) {
        if (tap->term_acts[tap->ops[i].term]) return true;
    }
    return false;
}

static float strength_of(const es_tap *tap, const es_op *op, int32_t batch_row) {
    return tap->batch.strength[(size_t)op->term * (size_t)tap->batch.n_rows + (size_t)batch_row];
}

/* Which batch row each row of l_out-N is. All rows of the ubatch, or, where the model
 * drops the others before its last block, those whose logits were asked for. */
static bool map_rows(es_tap *tap, int32_t layer, int64_t rows) {
    if (rows == tap->rows) {
        for (int32_t r = 0; r < tap->rows; ++r) tap->row_of[r] = tap->start + r;
        return true;
    }
    if (rows != tap->n_outputs) {
        latch(tap, ES_ROWS, layer, rows, tap->rows, -1);
        return false;
    }
    int32_t r = 0;
    for (int32_t t = tap->start; t < tap->start + tap->rows; ++t) {
        if (tap->batch.wants_logits[t]) tap->row_of[r++] = t;
    }
    return true;
}

/* From 2^120 on, what a later block adds might make Inf of it, and its norm NaN. An integer maximum over the
 * exponents vectorises, a float one does not. */
static bool small_row(const float *h, int32_t n) {
    uint32_t top = 0;
    for (int32_t j = 0; j < n; ++j) {
        uint32_t bits;
        memcpy(&bits, h + j, sizeof bits);
        bits &= 0x7f800000u;
        top = bits > top ? bits : top;
    }
    return top < (127u + 120u) << 23;
}

typedef struct {
    int32_t lo, hi; /* rows [lo, hi) of l_out; empty where lo >= hi */
} span;

/* From the first to the last row in scope of an operation of this block. */
static span rows_in_scope(const es_tap *tap, int32_t layer, int32_t rows) {
    span s = {rows, 0};
    for (int32_t i = tap->first_op[layer]; i < tap->first_op[layer + 1]; ++i) {
        const es_op *op = &tap->ops[i];
        if (!tap->term_acts[op->term]) continue;
        for (int32_t r = 0; r < rows; ++r) {
            if (strength_of(tap, op, tap->row_of[r]) == 0.0f) continue;
            if (r < s.lo) s.lo = r;
            if (r >= s.hi) s.hi = r + 1;
        }
    }
    return s;
}

/* One call a gate, over all rows, in scope or not: how a matrix product rounds may depend on how many rows it
 * has, and what one sequence gets must not depend on the plans of the others. */
static bool evaluate_gates(es_tap *tap, int32_t layer, int32_t rows) {
    int32_t first = tap->first_op[layer];
    for (int32_t i = first; i < tap->first_op[layer + 1]; ++i) {
        const es_op *op = &tap->ops[i];
        if (!op->gate || !tap->term_acts[op->term]) continue;
        float *coef = tap->coef + (size_t)(i - first) * (size_t)tap->capacity;
        if (op->gate(op->gate_self, layer, tap->h, rows, coef) != 0) {
            latch(tap, ES_GATE, layer, 0, 0, i);
            return false;
        }
    }
    return true;
}

/* h' = h + sum over operations, in canonical order, in float32: what NumPy gives too. */
static void apply(es_tap *tap, const void *tensor, int32_t layer, int32_t lo, int32_t hi) {
    const int32_t n = tap->n_embd, first = tap->first_op[layer];
    const size_t row_bytes = (size_t)n * sizeof(float);
    for (int32_t r = lo; r < hi; ++r) {
        float *h = tap->h + (size_t)r * (size_t)n;
        int32_t t = tap->row_of[r];
        bool touched = false;
        if (tap->batch.overflowed[t]) continue;
        for (int32_t i = first; i < tap->first_op[layer + 1]; ++i) {
            const es_op *op = &tap->ops[i];
            float s = strength_of(tap, op, t);
            if (s == 0.0f) continue;
            float c = op->gate ? tap->coef[(size_t)(i - first) * (size_t)tap->capacity + (size_t)r] : 1.0f;
            if (tap->batch.record) {
                size_t at = ((size_t)op->term * (size_t)tap->batch.n_rows + (size_t)t) * (size_t)tap->n_layer;
                tap->batch.record[at + (size_t)layer] = c;
            }
            float a = s * c;
            if (a == 0.0f) continue;
            touched = true;
            for (int32_t j = 0; j < n; ++j) h[j] += a * op->direction[j];
        }
        if (touched && !small_row(h, n)) {
            latch(tap, ES_OVERFLOW, layer, t, 0, -1);
            tap->batch.overflowed[t] = 1;
            tap->ggml.tensor_get(tensor, h, (size_t)r * row_bytes, row_bytes); /* as it came in */
        }
    }
}

static void steer(es_tap *tap, void *tensor, int32_t layer, int32_t rows) {
    span s = rows_in_scope(tap, layer, rows);
    if (s.lo >= s.hi) return;
    size_t row_bytes = (size_t)tap->n_embd * sizeof(float), from = (size_t)s.lo * (size_t)tap->n_embd;
    tap->ggml.tensor_get(tensor, tap->h, 0, (size_t)rows * row_bytes);
    if (!evaluate_gates(tap, layer, rows)) return;
    apply(tap, tensor, layer, s.lo, s.hi);
    tap->ggml.tensor_set(tensor, tap->h + from, (size_t)s.lo * row_bytes, (size_t)(s.hi - s.lo) * row_bytes);
}

static void capture(es_tap *tap, const void *tensor, int32_t rows, float *out) {
    size_t n = (size_t)tap->n_embd, row_bytes = n * sizeof(float);
    tap->ggml.tensor_get(tensor, tap->h, 0, (size_t)rows * row_bytes);
    for (int32_t r = 0; r < rows; ++r) {
        memcpy(out + (size_t)tap->row_of[r] * n, tap->h + (size_t)r * n, row_bytes);
    }
}

static void replace(es_tap *tap, void *tensor, int32_t rows, const float *in) {
    size_t n = (size_t)tap->n_embd, row_bytes = n * sizeof(float);
    for (int32_t r = 0; r < rows; ++r) {
        memcpy(tap->h + (size_t)r * n, in + (size_t)tap->row_of[r] * n, row_bytes);
    }
    tap->ggml.tensor_set(tensor, tap->h, 0, (size_t)rows * row_bytes);
}

static void visit(es_tap *tap, void *tensor, int32_t layer) {
    const es_announcement *b = &tap->batch;
    int64_t rows = tap->ggml.nrows(tensor);
    if (!map_rows(tap, layer, rows) || rows == 0) return;
    int64_t elements = tap->ggml.nelements(tensor), n = tap->n_embd;
    if (elements != rows * n || tap->ggml.nbytes(tensor) != (size_t)elements * sizeof(float) ||
        !tap->ggml.is_contiguous(tensor)) {
        latch(tap, ES_SHAPE, layer, elements, rows * n, -1);
        return;
    }
    steer(tap, tensor, layer, (int32_t)rows);
    if (!sound(tap)) return;
    if (b->capture && b->capture[layer]) capture(tap, tensor, (int32_t)rows, b->capture[layer]);
    if (b->replace && b->replace[layer]) replace(tap, tensor, (int32_t)rows, b->replace[layer]);
}

bool es_tap_callback(void *tensor, bool ask, void *user_data) {
    es_tap *tap = user_data;
    if (!tap->announced && tap->n_ops == 0) return !ask;
    int32_t layer = block_of(tap->ggml.get_name(tensor));
    if (layer < 0 || layer >= tap->n_layer) return !ask;
    if (!ask) {
        visit(tap, tensor, layer);
        return true;
    }
    if (!tap->announced) {
        latch(tap, ES_UNANNOUNCED, layer, 0, 0, -1);
        return false;
    }
    if (tap->batch.source) {
        memcpy(&tap->batch.source[layer], (const char *)tensor + tap->batch.source_at, sizeof(void *));
    }
    if (layer == 0) open_ubatch(tap, tensor);
    return sound(tap) && tap->rows > 0 && wanted(tap, layer);
}
