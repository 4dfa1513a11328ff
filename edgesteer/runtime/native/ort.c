#include "ort.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#define ORT_CALL __stdcall
#else
#define ORT_CALL
#endif

/* ONNX Runtime's function table is append-only by contract. These are places of version 1
 * of the table; the types behind the pointers stay opaque. */
enum {
    ORT_GET_ERROR_MESSAGE = 2,
    ORT_CREATE_ENV = 3,
    ORT_CREATE_SESSION_FROM_ARRAY = 8,
    ORT_RUN = 9,
    ORT_CREATE_SESSION_OPTIONS = 10,
    ORT_DISABLE_MEM_PATTERN = 17,
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
};
enum { ORT_FLOAT = 1, ORT_INT64 = 7, ORT_LOG_ERROR = 3, ORT_DEVICE_ALLOCATOR = 0, ORT_MEM_DEFAULT = 0 };

typedef void *status_t; /* NULL is success */
typedef struct {
    const void *const *(ORT_CALL *get_api)(uint32_t version);
    const char *(ORT_CALL *get_version)(void);
} api_base_t;

struct es_ort_gate {
    const void *const *api;
    void *session, *memory;
    int32_t n_layer, n_embd;
    int64_t *layer_ids; /* [n_layer], the storage behind layers */
    void **layers;      /* [n_layer] int64 scalars */
    void *in, *out;     /* bound tensors */
    const float *in_data;
    float *out_data;
    int32_t in_rows, out_rows;
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

static bool open_session(es_ort_gate *g, const void *model, size_t size) {
    const void *const *api = g->api;
    char *e = g->error;
    size_t n = sizeof g->error;
    void *options = NULL;
    if (!environment &&
        !ok(api, ((status_t(ORT_CALL *)(int, const char *, void **))api[ORT_CREATE_ENV])(ORT_LOG_ERROR, "edgesteer", &environment), e, n))
        return false;
    if (!ok(api, ((status_t(ORT_CALL *)(void **))api[ORT_CREATE_SESSION_OPTIONS])(&options), e, n)) return false;
    typedef status_t (ORT_CALL *set_int)(void *, int);
    bool done = ok(api, ((set_int)api[ORT_SET_INTRA_OP_THREADS])(options, 1), e, n) &&
                ok(api, ((set_int)api[ORT_SET_INTER_OP_THREADS])(options, 1), e, n) &&
                ok(api, ((set_int)api[ORT_SET_LOG_SEVERITY])(options, ORT_LOG_ERROR), e, n) &&
                /* row counts vary from call to call: a memory pattern would be planned for nothing */
                ok(api, ((status_t(ORT_CALL *)(void *))api[ORT_DISABLE_MEM_PATTERN])(options), e, n) &&
                ok(api, ((status_t(ORT_CALL *)(void *, const void *, size_t, void *, void **))api[ORT_CREATE_SESSION_FROM_ARRAY])(
                       environment, model, size, options, &g->session), e, n) &&
                ok(api, ((status_t(ORT_CALL *)(int, int, void **))api[ORT_CREATE_CPU_MEMORY_INFO])(
                       ORT_DEVICE_ALLOCATOR, ORT_MEM_DEFAULT, &g->memory), e, n);
    release(api, ORT_RELEASE_SESSION_OPTIONS, options);
    return done;
}

static bool bind_layers(es_ort_gate *g) {
    g->layer_ids = calloc((size_t)g->n_layer, sizeof *g->layer_ids);
    g->layers = calloc((size_t)g->n_layer, sizeof *g->layers);
    if (!g->layer_ids || !g->layers) {
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
    const void *const *api = ((const api_base_t *)api_base)->get_api(1);
    es_ort_gate *g = calloc(1, sizeof *g);
    if (!api || !g) {
        snprintf(error, error_size, api ? "out of memory" : "this ONNX Runtime does not offer version 1 of its C API");
        free(g);
        return NULL;
    }
    g->api = api;
    g->n_layer = n_layer;
    g->n_embd = n_embd;
    if (open_session(g, model, size) && bind_layers(g)) return g;
    snprintf(error, error_size, "%s", g->error);
    es_ort_gate_free(g);
    return NULL;
}

void es_ort_gate_free(es_ort_gate *g) {
    if (!g) return;
    release(g->api, ORT_RELEASE_VALUE, g->in);
    release(g->api, ORT_RELEASE_VALUE, g->out);
    for (int32_t i = 0; g->layers && i < g->n_layer; ++i) release(g->api, ORT_RELEASE_VALUE, g->layers[i]);
    release(g->api, ORT_RELEASE_SESSION, g->session);
    release(g->api, ORT_RELEASE_MEMORY_INFO, g->memory);
    free(g->layers);
    free(g->layer_ids);
    free(g);
}

const char *es_ort_gate_error(const es_ort_gate *g) { return g->error; }

static bool bind(es_ort_gate *g, const float *activation, int32_t rows, float *coefficient) {
    size_t n = (size_t)rows;
    if (activation != g->in_data || rows != g->in_rows) {
        release(g->api, ORT_RELEASE_VALUE, g->in);
        g->in = NULL;
        g->in_data = NULL;
        int64_t shape[2] = {rows, g->n_embd};
        if (!tensor(g, (void *)activation, n * (size_t)g->n_embd * sizeof(float), shape, 2, ORT_FLOAT, &g->in)) return false;
        g->in_data = activation;
        g->in_rows = rows;
    }
    if (coefficient != g->out_data || rows != g->out_rows) {
        release(g->api, ORT_RELEASE_VALUE, g->out);
        g->out = NULL;
        g->out_data = NULL;
        int64_t shape[1] = {rows};
        if (!tensor(g, coefficient, n * sizeof(float), shape, 1, ORT_FLOAT, &g->out)) return false;
        g->out_data = coefficient;
        g->out_rows = rows;
    }
    return true;
}

int es_ort_gate_run(void *self, int32_t layer, const float *activation, int32_t rows, float *coefficient) {
    static const char *const inputs[] = {"activation", "layer"}, *const outputs[] = {"coefficient"};
    es_ort_gate *g = self;
    if (layer < 0 || layer >= g->n_layer) {
        snprintf(g->error, sizeof g->error, "block %d is outside 0..%d", (int)layer, (int)g->n_layer - 1);
        return 1;
    }
    if (!bind(g, activation, rows, coefficient)) return 1;
    typedef status_t (ORT_CALL *fn)(void *, const void *, const char *const *, const void *const *, size_t,
                                    const char *const *, size_t, void **);
    const void *values[] = {g->in, g->layers[layer]};
    void *results[] = {g->out};
    return ok(g->api, ((fn)g->api[ORT_RUN])(g->session, NULL, inputs, values, 2, outputs, 1, results), g->error,
              sizeof g->error)
               ? 0
               : 1;
}
