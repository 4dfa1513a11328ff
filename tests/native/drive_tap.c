/* Drives the tap through random plans and decodes over a fake ggml, and compares every tensor, every buffer
 * and every status, bit for bit, with a reference that is written for reading, not for speed.
 *
 * A fake decode goes through ubatches and blocks like llama.cpp's scheduler: it asks about every tensor, and
 * hands over those that were wanted. Some decodes have a fault in them: wrong rows or shapes, a gate that
 * fails, overflow, a batch that was never announced or whose announcement was abandoned.
 */
#include "drive.h"
#include "tap.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { MAX_LAYERS = 6, MAX_OPS = 14, MAX_TERMS = 4 };

/* ---- the fake ggml: tensors in host memory ---- */

typedef struct {
    char name[48];
    int64_t ne[4];
    size_t bytes;
    bool contiguous;
    float *data;
    const char *second; /* its second source, by block: SECOND + block */
} tensor;

static const char SECOND[64];
static uint64_t sources[64];

static const char *get_name(const void *t) { return ((const tensor *)t)->name; }
static int64_t nrows(const void *t) {
    const int64_t *ne = ((const tensor *)t)->ne;
    return ne[1] * ne[2] * ne[3];
}
static int64_t nelements(const void *t) { return ((const tensor *)t)->ne[0] * nrows(t); }
static size_t nbytes(const void *t) { return ((const tensor *)t)->bytes; }
static bool is_contiguous(const void *t) { return ((const tensor *)t)->contiguous; }
static void tensor_get(const void *t, void *data, size_t offset, size_t size) {
    REQUIRE(offset + size <= nbytes(t), "get of %zu at %zu", size, offset);
    memcpy(data, (const char *)((const tensor *)t)->data + offset, size);
}
static void tensor_set(void *t, const void *data, size_t offset, size_t size) {
    REQUIRE(offset + size <= nbytes(t), "set of %zu at %zu", size, offset);
    memcpy((char *)((tensor *)t)->data + offset, data, size);
}
static const es_ggml GGML = {get_name, nelements, nrows, nbytes, is_contiguous, tensor_get, tensor_set};

/* ---- fake gates ---- */

typedef struct {
    int32_t n_embd, fails_at, nan_at; /* blocks, or -1 */
} gate;

static float coefficient(const gate *g, int32_t layer, const float *h) {
    float sum = 0;
    for (int32_t j = 0; j < g->n_embd; ++j) sum += h[j];
    if (layer == g->nan_at) return NAN;
    return sum > 0 ? sum : 0; /* a ReLU: half of the rows have coefficient 0 */
}

static int run_gate(void *self, int32_t layer, const float *activation, int32_t rows, float *out) {
    const gate *g = self;
    REQUIRE(rows > 0, "a gate asked about %d rows", rows);
    for (int32_t r = 0; r < rows; ++r) out[r] = coefficient(g, layer, activation + (size_t)r * (size_t)g->n_embd);
    return layer == g->fails_at;
}

/* ---- what one decode is ---- */

typedef struct {
    int32_t n_layer, n_embd, n_ops, n_terms;
    es_op ops[MAX_OPS];
    gate gates[MAX_OPS];
    float *directions[MAX_OPS];
} plan;

enum fault { NONE, EXTRA_ROWS, MISSING_ROWS, ODD_ROWS, WIDE, SCATTERED, HALF, FAULTS };

typedef struct {
    int32_t n_rows, n_ubatches, first_row[16]; /* ubatch u is rows first_row[u]..first_row[u+1] */
    int8_t *wants, *overflowed, *seen_overflowed;
    float *strength, *record, *seen_record;
    float *base[MAX_LAYERS], *replace[MAX_LAYERS], *capture[MAX_LAYERS], *seen_capture[MAX_LAYERS];
    bool drops_rows; /* the last block keeps only rows that want logits */
    enum fault fault;
    int32_t fault_ubatch, fault_layer;
} batch;

static void free_plan(plan *p) {
    for (int32_t i = 0; i < p->n_ops; ++i) free(p->directions[i]);
    p->n_ops = 0;
}

static void new_plan(plan *p) {
    free_plan(p);
    p->n_terms = below(MAX_TERMS + 1);
    p->n_ops = p->n_terms ? below(MAX_OPS + 1) : 0;
    int32_t layer = 0;
    for (int32_t i = 0; i < p->n_ops; ++i) {
        layer += chance(50) ? 0 : below(3);
        if (layer >= p->n_layer) layer = p->n_layer - 1;
        p->directions[i] = floats((size_t)p->n_embd);
        if (chance(3)) p->directions[i][below(p->n_embd)] = 3e38f;
        p->gates[i] = (gate){p->n_embd, chance(4) ? layer : -1, chance(3) ? layer : -1};
        bool gated = chance(60);
        p->ops[i] = (es_op){layer, below(p->n_terms), p->directions[i], gated ? run_gate : NULL, gated ? &p->gates[i] : NULL};
    }
}

static void set_plan(es_tap *tap, plan *p, bool other_model) {
    free_plan(p);
    if (other_model) {
        p->n_layer = 1 + below(MAX_LAYERS);
        p->n_embd = 1 + below(9);
        es_tap_model(tap, p->n_layer, p->n_embd);
    }
    new_plan(p);
    REQUIRE(es_tap_plan(tap, p->ops, p->n_ops, p->n_terms) == ES_OK, "%d operations", p->n_ops);
}

static void split(batch *b) {
    int32_t at = 0;
    b->n_ubatches = 0;
    while (at < b->n_rows && b->n_ubatches < 14) {
        b->first_row[b->n_ubatches++] = at;
        at += chance(50) ? b->n_rows - at : 1 + below(b->n_rows - at);
    }
    b->first_row[b->n_ubatches] = b->n_rows;
}

static float *copy(const float *values, size_t n) {
    float *own = floats(n);
    memcpy(own, values, n * sizeof *own);
    return own;
}

static void new_batch(batch *b, const plan *p) {
    memset(b, 0, sizeof *b);
    b->n_rows = chance(3) ? 0 : chance(30) ? 1 : 1 + below(23);
    size_t rows = (size_t)b->n_rows, n = (size_t)p->n_embd;
    split(b);
    b->drops_rows = chance(60);
    int mostly = below(4) * 33;
    b->wants = calloc(rows ? rows : 1, 1);
    b->overflowed = calloc(rows ? rows : 1, 1);
    b->seen_overflowed = calloc(rows ? rows : 1, 1);
    for (size_t t = 0; t < rows; ++t) b->wants[t] = (int8_t)chance(mostly);
    b->strength = floats((size_t)p->n_terms * rows);
    int in_scope = below(4) * 33;
    for (size_t i = 0; i < (size_t)p->n_terms * rows; ++i) {
        if (!chance(in_scope)) b->strength[i] = 0;
        if (chance(1)) b->strength[i] = 1e30f;
    }
    size_t size = (size_t)p->n_terms * rows * (size_t)p->n_layer;
    if (chance(50)) b->record = floats(size), b->seen_record = copy(b->record, size);
    for (int32_t layer = 0; layer < p->n_layer; ++layer) {
        b->base[layer] = floats(rows * n);
        if (chance(15)) b->replace[layer] = floats(rows * n);
        if (chance(25)) b->capture[layer] = floats(rows * n), b->seen_capture[layer] = copy(b->capture[layer], rows * n);
    }
    b->fault = b->n_ubatches && chance(30) ? (enum fault)below(FAULTS) : NONE;
    b->fault_ubatch = b->n_ubatches ? below(b->n_ubatches) : 0;
    b->fault_layer = b->fault == EXTRA_ROWS ? 0 : below(p->n_layer);
}

static void free_batch(batch *b) {
    free(b->wants); free(b->overflowed); free(b->seen_overflowed); free(b->strength); free(b->record); free(b->seen_record);
    for (int32_t layer = 0; layer < MAX_LAYERS; ++layer) {
        free(b->base[layer]); free(b->replace[layer]); free(b->capture[layer]); free(b->seen_capture[layer]);
    }
}

/* ---- the reference: FORMAT's equation, row by row ---- */

static bool sound(const es_status *s) { return s->code == ES_OK || s->code == ES_OVERFLOW; }

/* The first error counts, but one of the whole decode outweighs one of a row. */
static void fail(es_status *s, int code, int32_t layer, int32_t op) {
    if (s->code == ES_OK || (sound(s) && code != ES_OVERFLOW)) *s = (es_status){code, layer, 0, 0, op};
}

static bool acts(const batch *b, int32_t term, int32_t from, int32_t to) {
    for (int32_t t = from; t < to; ++t) {
        if (b->strength[term * b->n_rows + t] != 0) return true;
    }
    return false;
}

static bool is_wanted(const plan *p, const batch *b, int32_t layer, int32_t from, int32_t to) {
    if (b->capture[layer] || b->replace[layer]) return true;
    for (int32_t i = 0; i < p->n_ops; ++i) {
        if (p->ops[i].layer == layer && acts(b, p->ops[i].term, from, to)) return true;
    }
    return false;
}

/* One row, from unsteered h; false where it overflows, and then it stays as it is, here and in the blocks above. */
static bool steer_row(const plan *p, const batch *b, int32_t layer, int32_t t, const float *h, float *steered) {
    bool touched = false, small = true;
    memcpy(steered, h, (size_t)p->n_embd * sizeof *h);
    if (b->seen_overflowed[t]) return true;
    for (int32_t i = 0; i < p->n_ops; ++i) {
        const es_op *op = &p->ops[i];
        float s = op->layer == layer ? b->strength[op->term * b->n_rows + t] : 0;
        if (s == 0) continue;
        float c = op->gate ? coefficient(op->gate_self, layer, h) : 1;
        if (b->seen_record) b->seen_record[(op->term * b->n_rows + t) * p->n_layer + layer] = c;
        if (s * c == 0) continue;
        touched = true;
        for (int32_t j = 0; j < p->n_embd; ++j) steered[j] += s * c * op->direction[j];
    }
    for (int32_t j = 0; j < p->n_embd; ++j) small = small && fabsf(steered[j]) < 0x1p120f;
    if (!touched || small) return true;
    memcpy(steered, h, (size_t)p->n_embd * sizeof *h);
    b->seen_overflowed[t] = 1;
    return false;
}

/* Whether some operation of the block acts on a row of l_out. */
static bool in_scope(const plan *p, const batch *b, int32_t layer, const int32_t *rows, int32_t n) {
    for (int32_t i = 0; i < p->n_ops; ++i) {
        if (p->ops[i].layer != layer) continue;
        for (int32_t r = 0; r < n; ++r) {
            if (b->strength[p->ops[i].term * b->n_rows + rows[r]] != 0) return true;
        }
    }
    return false;
}

/* The rows of one l_out of ubatch u, in place. `rows` holds the batch row of each. */
static void reference(const plan *p, const batch *b, es_status *s, int32_t layer, int32_t u, const int32_t *rows, int32_t n, float *h) {
    size_t width = (size_t)p->n_embd;
    for (int32_t i = 0; i < p->n_ops && in_scope(p, b, layer, rows, n); ++i) {
        const es_op *op = &p->ops[i];
        if (op->layer != layer || !op->gate || ((gate *)op->gate_self)->fails_at != layer) continue;
        if (acts(b, op->term, b->first_row[u], b->first_row[u + 1])) fail(s, ES_GATE, layer, i);
    }
    if (!sound(s)) return;
    float *steered = floats((size_t)n * width);
    for (int32_t r = 0; r < n; ++r) {
        if (!steer_row(p, b, layer, rows[r], h + (size_t)r * width, steered + (size_t)r * width)) fail(s, ES_OVERFLOW, layer, -1);
    }
    memcpy(h, steered, (size_t)n * width * sizeof *h);
    free(steered);
    for (int32_t r = 0; r < n; ++r) {
        size_t here = (size_t)r * width, there = (size_t)rows[r] * width, bytes = width * sizeof *h;
        if (b->seen_capture[layer]) memcpy(b->seen_capture[layer] + there, h + here, bytes);
        if (b->replace[layer]) memcpy(h + here, b->replace[layer] + there, bytes);
    }
}

/* ---- the fake decode ---- */

static const char *const OTHERS[] = {"l_out", "l_out-", "l_out-x", "l_out-1x", "l_out-99999999999999999999", "l_out--1",
                                     "l_norm-1", "", "result_output", "l_out-1 (copy)", "l_out-7"};

static void ask_about_others(es_tap *tap) {
    tensor t = {.ne = {1, 1, 1, 1}, .bytes = 4, .contiguous = true};
    int32_t i = below((int32_t)(sizeof OTHERS / sizeof *OTHERS));
    snprintf(t.name, sizeof t.name, "%s", OTHERS[i]);
    REQUIRE(!es_tap_callback(&t, true, tap), "'%s' was wanted", t.name);
}

static int32_t rows_kept(const plan *p, const batch *b, int32_t layer, int32_t u, int32_t *rows) {
    int32_t n = 0;
    bool drops = b->drops_rows && layer == p->n_layer - 1 && layer > 0;
    for (int32_t t = b->first_row[u]; t < b->first_row[u + 1]; ++t) {
        if (!drops || b->wants[t]) rows[n++] = t;
    }
    return n;
}

/* Bend the tensor as the fault says, and tell the reference what must come of it. */
static void spoil(const plan *p, const batch *b, es_status *expected, int32_t layer, int32_t u, tensor *t) {
    int32_t from = b->first_row[u], to = b->first_row[u + 1];
    bool looked_at = t->ne[1] > 0 && is_wanted(p, b, layer, from, to);
    if (b->fault == EXTRA_ROWS) {
        t->ne[1] = b->n_rows - from + 1 + below(3);
        fail(expected, ES_ROWS, 0, -1);
    } else if (b->fault == ODD_ROWS && layer > 0) {
        t->ne[1] = to - from + 1 + below(3);
        if (is_wanted(p, b, layer, from, to)) fail(expected, ES_ROWS, layer, -1);
    } else if (b->fault == WIDE) {
        t->ne[0] += 1;
        if (looked_at) fail(expected, ES_SHAPE, layer, -1);
    } else if (b->fault == SCATTERED) {
        t->contiguous = false;
        if (looked_at) fail(expected, ES_SHAPE, layer, -1);
    } else if (b->fault == HALF) {
        t->bytes /= 2;
        if (looked_at) fail(expected, ES_SHAPE, layer, -1);
    }
}

static void visit_block(es_tap *tap, const plan *p, const batch *b, es_status *expected, int32_t u, int32_t layer, float *stream) {
    int32_t rows[32], n = rows_kept(p, b, layer, u, rows);
    size_t width = (size_t)p->n_embd, size = (size_t)n * width;
    tensor t = {.ne = {p->n_embd, n, 1, 1}, .bytes = size * sizeof(float), .contiguous = true, .data = floats(size), .second = SECOND + layer};
    snprintf(t.name, sizeof t.name, "l_out-%d", (int)layer);
    for (int32_t r = 0; r < n; ++r) {
        for (size_t j = 0; j < width; ++j) { /* the block adds to what the blocks before it made */
            size_t at = (size_t)rows[r] * width + j;
            t.data[(size_t)r * width + j] = 0.5f * stream[at] + b->base[layer][at];
        }
    }
    float *own = copy(t.data, size);
    if (layer == b->fault_layer && u == b->fault_ubatch) spoil(p, b, expected, layer, u, &t);
    if (sound(expected) && n && is_wanted(p, b, layer, b->first_row[u], b->first_row[u + 1])) {
        reference(p, b, expected, layer, u, rows, n, own);
    }
    if (chance(20)) ask_about_others(tap);
    if (es_tap_callback(&t, true, tap)) REQUIRE(es_tap_callback(&t, false, tap), "the decode of %s was broken", t.name);
    REQUIRE(!memcmp(own, t.data, size * sizeof *own), "%s, ubatch %d of %d", t.name, u, b->n_ubatches);
    for (int32_t r = 0; r < n; ++r) memcpy(stream + (size_t)rows[r] * width, own + (size_t)r * width, width * sizeof *own);
    free(own);
    free(t.data);
}

static es_status decode(es_tap *tap, const plan *p, const batch *b) {
    es_status expected = {.layer = -1, .op = -1};
    float *stream = floats((size_t)b->n_rows * (size_t)p->n_embd);
    for (int32_t u = 0; u < b->n_ubatches; ++u) {
        if (b->fault == MISSING_ROWS && u == b->fault_ubatch && u == b->n_ubatches - 1) {
            fail(&expected, ES_ROWS, 0, -1);
            continue;
        }
        for (int32_t layer = 0; layer < p->n_layer; ++layer) visit_block(tap, p, b, &expected, u, layer, stream);
    }
    free(stream);
    return expected;
}

static es_announcement announcement(const plan *p, batch *b) {
    bool captures = false, replaces = false;
    for (int32_t n = 0; n < p->n_layer; ++n) {
        captures = captures || b->capture[n];
        replaces = replaces || b->replace[n];
    }
    return (es_announcement){b->n_rows, b->wants, b->strength, b->record, captures ? b->capture : NULL,
                             replaces ? (const float *const *)b->replace : NULL,
                             chance(50) ? sources : NULL, offsetof(tensor, second), b->overflowed};
}

/* Whatever block was asked about has its second source written down, and no other address. */
static void compare_sources(const plan *p, const es_announcement *said, bool all) {
    for (int32_t n = 0; n < p->n_layer; ++n) {
        uint64_t wanted = (uint64_t)(uintptr_t)(SECOND + n);
        bool found = sources[n] == wanted, none = sources[n] == 0;
        REQUIRE(found || (none && !(said->source && all)), "block %d", n);
        sources[n] = 0;
    }
}

static void compare_buffers(const plan *p, const batch *b) {
    size_t rows = (size_t)b->n_rows, size = rows * (size_t)p->n_terms * (size_t)p->n_layer;
    REQUIRE(!memcmp(b->overflowed, b->seen_overflowed, rows), "overflowed rows of %d", b->n_rows);
    if (b->record) REQUIRE(!memcmp(b->record, b->seen_record, size * sizeof(float)), "record of %d terms", p->n_terms);
    for (int32_t n = 0; n < p->n_layer; ++n) {
        size_t bytes = rows * (size_t)p->n_embd * sizeof(float);
        if (b->capture[n]) REQUIRE(!memcmp(b->capture[n], b->seen_capture[n], bytes), "capture of block %d", n);
    }
}

static void abandon(es_tap *tap, const plan *p) {
    batch b;
    new_batch(&b, p);
    es_announcement said = announcement(p, &b);
    REQUIRE(es_tap_announce(tap, &said) == ES_OK, "%d rows", b.n_rows);
    free_batch(&b); /* the next announcement must not look at these buffers */
}

/* A decode that did not pass through the wrapper: refused with a plan, untouched without one. */
static es_status unannounced(es_tap *tap, const plan *p) {
    batch b;
    new_batch(&b, p);
    b.fault = NONE;
    plan nothing = {.n_layer = p->n_layer, .n_embd = p->n_embd, .n_terms = p->n_terms};
    for (int32_t n = 0; n < p->n_layer; ++n) {
        free(b.capture[n]); free(b.replace[n]);
        b.capture[n] = b.replace[n] = NULL;
    }
    es_status expected = decode(tap, &nothing, &b), found;
    if (p->n_ops && b.n_ubatches) fail(&expected, ES_UNANNOUNCED, 0, -1);
    REQUIRE(es_tap_finish(tap, &found) == expected.code, "found %d, expected %d", found.code, expected.code);
    free_batch(&b);
    return found;
}

static es_status announced(es_tap *tap, const plan *p) {
    batch b;
    new_batch(&b, p);
    es_announcement said = announcement(p, &b);
    REQUIRE(es_tap_announce(tap, &said) == ES_OK, "%d rows", b.n_rows);
    es_status expected = decode(tap, p, &b), found;
    int code = es_tap_finish(tap, &found);
    REQUIRE(code == found.code && code == expected.code, "found %d, expected %d, fault %d", code, expected.code, b.fault);
    REQUIRE(!code || found.layer == expected.layer, "block %d, expected %d, code %d", found.layer, expected.layer, code);
    REQUIRE(code != ES_GATE || found.op == expected.op, "operation %d, expected %d", found.op, expected.op);
    compare_buffers(p, &b);
    compare_sources(p, &said, code == ES_OK && b.n_ubatches > 0);
    free_batch(&b);
    return found;
}

void drive_tap(int decodes) {
    REQUIRE(es_abi() == ES_ABI, "%d", es_abi());
    es_tap_free(NULL);
    es_tap *tap = es_tap_new(&GGML);
    plan p = {0};
    int codes[8] = {0};
    for (int i = 0; i < decodes; ++i) {
        if (i % 500 == 499) { /* the next tap has to begin with nothing */
            es_tap_free(tap);
            tap = es_tap_new(&GGML);
        }
        if (i % 500 == 0 || i % 500 == 499 || chance(20)) set_plan(tap, &p, i % 500 == 0 || i % 500 == 499 || chance(20));
        if (chance(5)) abandon(tap, &p);
        codes[announced(tap, &p).code]++;
        if (chance(5)) codes[unannounced(tap, &p).code]++;
    }
    free_plan(&p);
    es_tap_free(tap);
    for (int code = ES_OK; code < ES_MEMORY; ++code) REQUIRE(codes[code] > decodes / 1000, "code %d: %d times", code, codes[code]);
    printf("tap: %d decodes as the reference; status 0 to 5:", decodes);
    for (int code = ES_OK; code < ES_MEMORY; ++code) printf(" %d", codes[code]);
    putchar('\n');
}
