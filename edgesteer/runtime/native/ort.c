#include "ort.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

/* ONNX Runtime's function table is append-only by contract. These are places of version 5
 * of the table; the types behind the pointers stay opaque. */
enum {
    ORT_API_VERSION = 5,
    ORT_GET_ERROR_MESSAGE = 2,
    ORT_CREATE_ENV = 3,
    ORT_CREATE_SESSION_FROM_ARRAY = 8,
    ORT_RUN = 9,
    ORT_CREATE_SESSION_OPTIONS = 10,
    ORT_DISABLE_MEM_PATTERN = 17,
    ORT_DISABLE_MEM_ARENA = 19,
    ORT_SET_LOG_SEVERITY = 22,
    ORT_SET_INTRA_OP_THREADS = 24,
    ORT_SET_INTER_OP_THREADS = 25,
    ORT_CREATE_TENSOR_WITH_DATA = 49,
    ORT_CREATE_CPU_MEMORY_INFO = 69,
    ORT_RELEASE_STATUS = 93,
    ORT_RELEASE_MEMORY_INFO = 94,
    ORT_RELEASE_SESSION = 95,
    ORT_RELEASE_VALUE = 96,
    ORT_RELEASE_SESSION_OPTIONS = 100,
    ORT_RUN_WITH_BINDING = 133,
    ORT_CREATE_BINDING = 134,
    ORT_RELEASE_BINDING = 135,
    ORT_BIND_INPUT = 136,
    ORT_BIND_OUTPUT = 137,
};
enum { ORT_FLOAT = 1, ORT_INT64 = 7, ORT_LOG_ERROR = 3, ORT_DEVICE_ALLOCATOR = 0, ORT_MEM_DEFAULT = 0 };

typedef void *status_t; /* NULL is success */
typedef struct {
    const void *const *(ORT_CALL *get_api)(uint32_t version);
    const char *(ORT_CALL *get_version)(void);
} api_base_t;

/* A session for one block, with its input and output bound to the tensors of generation `bound`. */
typedef struct {
    void *session, *binding;
    int shape; /* es_ort_shape of its output */
    uint64_t bound;
} folded_t;

struct es_ort_gate {
    const void *const *api;
    void *session, *memory;
    folded_t *folded; /* [n_layer]; session NULL where a block has none */
    int32_t n_layer, n_embd;
    int64_t *layer_ids; /* [n_layer], the storage behind layers */
    void **layers;      /* [n_layer] int64 scalars */
    void *in, *out[ES_ORT_SHAPES]; /* tensors over the caller's buffers */
    const float *in_data;
    float *out_data;
    int32_t rows;
    uint64_t generation; /* counts the changes of in and out */
    char error[512];
};

/* One environment for the process, as ONNX Runtime wants it; the caller holds a lock. */
static void *environment;

static bool ok(const void *const *api, status_t status, char *error, size_t size) {
    if (!status) return true;
    const char *(ORT_CALL *message)(status_t) = (const char *(ORT_CALL *)(status_t))api[ORT_GET_ERROR_MESSAGE];
    void (ORT_CALL *release)(status_t) = (void (ORT_CALL *)(status_t))api[ORT_RELEASE_STATUS];
    snprintf(error, size, "%s", message(status));
    release(status);
    return false;
}

static void release(const void *const *api, int place, void *object) {
    if (object) ((void (ORT_CALL *)(void *))api[place])(object);
}

static bool tensor(es_ort_gate *g, void *data, size_t bytes, const int64_t *shape, size_t rank, int type, void **out) {
    typedef status_t (ORT_CALL *fn)(void *, void *, size_t, const int64_t *, size_t, int, void **);
    fn create = (fn)g->api[ORT_CREATE_TENSOR_WITH_DATA];
    return ok(g->api, create(g->memory, data, bytes, shape, rank, type, out), g->error, sizeof g->error);
}

static bool open_session(es_ort_gate *g, const void *model, size_t size, void **session) {
    const void *const *api = g->api;
    char *e = g->error;
    size_t n = sizeof g->error;
    void *options = NULL;
    if (!ok(api, ((status_t(ORT_CALL *)(void **))api[ORT_CREATE_SESSION_OPTIONS])(&options), e, n)) return false;
    typedef status_t (ORT_CALL *set_int)(void *, int);
    bool done = ok(api, ((set_int)api[ORT_SET_INTRA_OP_THREADS])(options, 1), e, n) &&
                ok(api, ((set_int)api[ORT_SET_INTER_OP_THREADS])(options, 1), e, n) &&
                ok(api, ((set_int)api[ORT_SET_LOG_SEVERITY])(options, ORT_LOG_ERROR), e, n) &&
                /* row counts vary from call to call: a memory pattern would be planned for nothing */
                ok(api, ((status_t(ORT_CALL *)(void *))api[ORT_DISABLE_MEM_PATTERN])(options), e, n) &&
                ok(api, ((status_t(ORT_CALL *)(void *))api[ORT_DISABLE_MEM_ARENA])(options), e, n) &&
                ok(api, ((status_t(ORT_CALL *)(void *, const void *, size_t, void *, void **))api[ORT_CREATE_SESSION_FROM_ARRAY])(
                       environment, model, size, options, session), e, n);
    release(api, ORT_RELEASE_SESSION_OPTIONS, options);
    return done;
}

static bool open_runtime(es_ort_gate *g) {
    const void *const *api = g->api;
    char *e = g->error;
    size_t n = sizeof g->error;
    typedef status_t (ORT_CALL *new_env)(int, const char *, void **);
    if (!environment && !ok(api, ((new_env)api[ORT_CREATE_ENV])(ORT_LOG_ERROR, "edgesteer", &environment), e, n))
        return false;
    typedef status_t (ORT_CALL *new_memory)(int, int, void **);
    new_memory create = (new_memory)api[ORT_CREATE_CPU_MEMORY_INFO];
    return ok(api, create(ORT_DEVICE_ALLOCATOR, ORT_MEM_DEFAULT, &g->memory), e, n);
}

static bool tensors_of_layers(es_ort_gate *g) {
    g->folded = calloc((size_t)g->n_layer, sizeof *g->folded);
    g->layer_ids = calloc((size_t)g->n_layer, sizeof *g->layer_ids);
    g->layers = calloc((size_t)g->n_layer, sizeof *g->layers);
    if (!g->folded || !g->layer_ids || !g->layers) {
        snprintf(g->error, sizeof g->error, "out of memory");
        return false;
    }
    for (int32_t i = 0; i < g->n_layer; ++i) {
        g->layer_ids[i] = i;
        if (!tensor(g, &g->layer_ids[i], sizeof(int64_t), NULL, 0, ORT_INT64, &g->layers[i])) return false;
    }
    return true;
}

es_ort_gate *es_ort_gate_new(const void *api_base, const void *model, size_t size, int32_t n_layer, int32_t n_embd,
                             char *error, size_t error_size) {
    const void *const *api = ((const api_base_t *)api_base)->get_api(ORT_API_VERSION);
    es_ort_gate *g = calloc(1, sizeof *g);
    if (!api || !g) {
        snprintf(error, error_size, api ? "out of memory" : "this ONNX Runtime does not offer version 5 of its C API");
        free(g);
        return NULL;
    }
    g->api = api;
    g->n_layer = n_layer;
    g->n_embd = n_embd;
    if (open_runtime(g) && open_session(g, model, size, &g->session) && tensors_of_layers(g)) return g;
    snprintf(error, error_size, "%s", g->error);
    es_ort_gate_free(g);
    return NULL;
}

static void unfold(es_ort_gate *g, folded_t *f) {
    release(g->api, ORT_RELEASE_BINDING, f->binding);
    release(g->api, ORT_RELEASE_SESSION, f->session);
    *f = (folded_t){0};
}

static void release_tensors(es_ort_gate *g) {
    release(g->api, ORT_RELEASE_VALUE, g->in);
    for (int i = 0; i < ES_ORT_SHAPES; ++i) release(g->api, ORT_RELEASE_VALUE, g->out[i]);
    g->in = NULL;
    memset(g->out, 0, sizeof g->out);
}

void es_ort_gate_free(es_ort_gate *g) {
    if (!g) return;
    for (int32_t i = 0; g->folded && i < g->n_layer; ++i) unfold(g, &g->folded[i]);
    release_tensors(g);
    for (int32_t i = 0; g->layers && i < g->n_layer; ++i) release(g->api, ORT_RELEASE_VALUE, g->layers[i]);
    release(g->api, ORT_RELEASE_SESSION, g->session);
    release(g->api, ORT_RELEASE_MEMORY_INFO, g->memory);
    free(g->folded);
    free(g->layers);
    free(g->layer_ids);
    free(g);
}

const char *es_ort_gate_error(const es_ort_gate *g) { return g->error; }

int es_ort_gate_fold(es_ort_gate *g, int32_t layer, const void *model, size_t size, int32_t shape) {
    if (layer < 0 || layer >= g->n_layer || shape < 0 || shape >= ES_ORT_SHAPES) {
        snprintf(g->error, sizeof g->error, "block %d or shape %d is unknown", (int)layer, (int)shape);
        return 1;
    }
    folded_t *f = &g->folded[layer];
    unfold(g, f);
    typedef status_t (ORT_CALL *fn)(void *, void **);
    f->shape = shape;
    if (open_session(g, model, size, &f->session) &&
        ok(g->api, ((fn)g->api[ORT_CREATE_BINDING])(f->session, &f->binding), g->error, sizeof g->error))
        return 0;
    unfold(g, f);
    return 1;
}

void es_ort_gate_unfold(es_ort_gate *g, int32_t layer) {
    if (layer >= 0 && layer < g->n_layer) unfold(g, &g->folded[layer]);
}

/* Tensors over the caller's buffers, made anew only when a pointer or the row count changes. */
static bool look_at(es_ort_gate *g, const float *activation, int32_t rows, float *coefficient) {
    if (g->in && activation == g->in_data && coefficient == g->out_data && rows == g->rows) return true;
    release_tensors(g);
    g->generation++;
    const int64_t n = rows, in_shape[2] = {n, g->n_embd};
    const int64_t out_shape[ES_ORT_SHAPES][2] = {{n, 0}, {1, n}, {n, 1}};
    for (int i = 0; i < ES_ORT_SHAPES; ++i) {
        size_t rank = i == ES_ORT_ROWS ? 1 : 2;
        if (!tensor(g, coefficient, (size_t)n * sizeof(float), out_shape[i], rank, ORT_FLOAT, &g->out[i])) return false;
    }
    size_t bytes = (size_t)n * (size_t)g->n_embd * sizeof(float);
    g->in_data = activation;
    g->out_data = coefficient;
    g->rows = rows;
    return tensor(g, (void *)activation, bytes, in_shape, 2, ORT_FLOAT, &g->in);
}

static const char *const INPUTS[] = {"activation", "layer"}, *const OUTPUTS[] = {"coefficient"};

static bool run_folded(es_ort_gate *g, folded_t *f) {
    typedef status_t (ORT_CALL *bind)(void *, const char *, const void *);
    typedef status_t (ORT_CALL *run)(void *, const void *, const void *);
    char *e = g->error;
    size_t n = sizeof g->error;
    if (f->bound != g->generation) {
        if (!ok(g->api, ((bind)g->api[ORT_BIND_INPUT])(f->binding, INPUTS[0], g->in), e, n) ||
            !ok(g->api, ((bind)g->api[ORT_BIND_OUTPUT])(f->binding, OUTPUTS[0], g->out[f->shape]), e, n))
            return false;
        f->bound = g->generation;
    }
    return ok(g->api, ((run)g->api[ORT_RUN_WITH_BINDING])(f->session, NULL, f->binding), e, n);
}

static bool run_any(es_ort_gate *g, int32_t layer) {
    typedef status_t (ORT_CALL *run)(void *, const void *, const char *const *, const void *const *, size_t,
                                     const char *const *, size_t, void **);
    const void *values[] = {g->in, g->layers[layer]};
    void *results[] = {g->out[ES_ORT_ROWS]};
    status_t status = ((run)g->api[ORT_RUN])(g->session, NULL, INPUTS, values, 2, OUTPUTS, 1, results);
    return ok(g->api, status, g->error, sizeof g->error);
}

int es_ort_gate_run(void *self, int32_t layer, const float *activation, int32_t rows, float *coefficient) {
    es_ort_gate *g = self;
    if (layer < 0 || layer >= g->n_layer) {
        snprintf(g->error, sizeof g->error, "block %d is outside 0..%d", (int)layer, (int)g->n_layer - 1);
        return 1;
    }
    if (!look_at(g, activation, rows, coefficient)) return 1;
    folded_t *f = &g->folded[layer];
    return (f->session ? run_folded(g, f) : run_any(g, layer)) ? 0 : 1;
}
