/* Drives the gate in ONNX Runtime: a real libonnxruntime, random row counts and buffers, and every refusal.
 *
 * In:  the library's path, and a folder with gate.onnx, folded-N.onnx for each block, and expected.bin: int32 n_layer, n_embd, n_blocks; then
 *      per block int32 N, float weight[n_embd], float bias. The coefficient is relu(h w + b).
 */
#include "drive.h"
#include "ort.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>

static void *read_all(const char *folder, const char *name, size_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    REQUIRE(file, "%s", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size);
    REQUIRE(fread(data, 1, *size, file) == *size, "%s", path);
    fclose(file);
    return data;
}

typedef struct {
    int32_t n_layer, n_embd, n_blocks;
    const char *blocks; /* [n_blocks] of N, weight, bias */
} network;

static float expected(const network *of, int32_t block, const float *h, int32_t *layer) {
    size_t stride = (size_t)of->n_embd + 2;
    const char *at = of->blocks + (size_t)block * stride * 4;
    memcpy(layer, at, 4);
    float sum, weight;
    memcpy(&sum, at + (stride - 1) * 4, 4);
    for (int32_t j = 0; h && j < of->n_embd; ++j) {
        memcpy(&weight, at + 4 + (size_t)j * 4, 4);
        sum += h[j] * weight;
    }
    return sum > 0 ? sum : 0;
}

/* Buffers are kept over several calls, like the tap's staging buffers, and then exchanged. */
static void ask(es_ort_gate *gate, const network *of, int calls) {
    float *h = NULL, *out = NULL;
    int32_t rows = 0, layer;
    for (int i = 0; i < calls; ++i) {
        if (!h || chance(40)) {
            rows = 1 + below(40);
            free(h), free(out);
            h = floats((size_t)rows * (size_t)of->n_embd);
            out = floats((size_t)rows);
        }
        int32_t asked = chance(20) ? 1 + below(rows) : rows; /* fewer rows in the same buffers */
        int32_t block = below(of->n_blocks);
        expected(of, block, NULL, &layer);
        REQUIRE(es_ort_gate_run(gate, layer, h, asked, out) == 0, "%s", es_ort_gate_error(gate));
        for (int32_t r = 0; r < asked; ++r) {
            float wanted = expected(of, block, h + (size_t)r * (size_t)of->n_embd, &layer);
            REQUIRE(fabsf(out[r] - wanted) < 1e-4f, "block %d, row %d: %g, expected %g", layer, r, (double)out[r], (double)wanted);
        }
        if (chance(5)) REQUIRE(es_ort_gate_run(gate, chance(50) ? -1 : of->n_layer, h, asked, out) != 0, "a block out of range");
    }
    free(h), free(out);
}

static void refuse(const void *base, const void *model, size_t size, const network *of) {
    char error[512] = "", tiny[8] = "";
    REQUIRE(!es_ort_gate_new(base, model, size / 2, of->n_layer, of->n_embd, error, sizeof error), "half a model");
    REQUIRE(*error, "no message");
    REQUIRE(!es_ort_gate_new(base, "", 0, of->n_layer, of->n_embd, tiny, sizeof tiny), "an empty model");
    REQUIRE(strlen(tiny) == sizeof tiny - 1, "'%s'", tiny);
    es_ort_gate_free(NULL);
}

/* A width that the model does not have fails at every run, and leaves the gate alive. */
static void misuse(const void *base, const void *model, size_t size, const network *of) {
    char error[512];
    es_ort_gate *gate = es_ort_gate_new(base, model, size, of->n_layer, of->n_embd + 1, error, sizeof error);
    REQUIRE(gate, "%s", error);
    float *h = floats((size_t)of->n_embd + 1), out[1];
    for (int i = 0; i < 3; ++i) {
        REQUIRE(es_ort_gate_run(gate, 1, h, 1, out) != 0, "a wrong width");
        REQUIRE(*es_ort_gate_error(gate), "no message");
    }
    free(h);
    es_ort_gate_free(gate);
}

/* Blocks come and go as sessions of their own while the gate is in use. */
static void fold(es_ort_gate *gate, const network *of, const char *folder) {
    int32_t layer;
    for (int i = 0; i < 6; ++i) {
        expected(of, below(of->n_blocks), NULL, &layer);
        char name[32];
        snprintf(name, sizeof name, "folded-%d.onnx", layer);
        size_t size;
        void *model = read_all(folder, name, &size);
        REQUIRE(es_ort_gate_fold(gate, layer, model, size, ES_ORT_ROW) == 0, "%s", es_ort_gate_error(gate));
        free(model);
        ask(gate, of, 60);
        if (chance(50)) es_ort_gate_unfold(gate, layer);
        ask(gate, of, 20);
    }
    REQUIRE(es_ort_gate_fold(gate, -1, "", 0, ES_ORT_ROW) != 0, "block -1");
    REQUIRE(es_ort_gate_fold(gate, 1, "", 0, ES_ORT_SHAPES) != 0, "an unknown shape");
    REQUIRE(es_ort_gate_fold(gate, layer, "no model", 8, ES_ORT_ROW) != 0, "no model");
    es_ort_gate_unfold(gate, -1);
    es_ort_gate_unfold(gate, of->n_layer);
    ask(gate, of, 20); /* the block that could not be folded is served by the whole graph */
}

static network network_of(const char *facts) {
    network of;
    memcpy(&of.n_layer, facts, 4);
    memcpy(&of.n_embd, facts + 4, 4);
    memcpy(&of.n_blocks, facts + 8, 4);
    of.blocks = facts + 12;
    return of;
}

void drive_ort(const char *library, const char *folder) {
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    REQUIRE(handle, "%s", dlerror());
    const void *(*get_base)(void);
    *(void **)&get_base = dlsym(handle, "OrtGetApiBase");
    REQUIRE(get_base, "%s", library);
    const void *base = get_base();
    size_t size, facts_size;
    void *model = read_all(folder, "gate.onnx", &size);
    char *facts = read_all(folder, "expected.bin", &facts_size);
    network of = network_of(facts);
    refuse(base, model, size, &of);
    misuse(base, model, size, &of);
    char error[512];
    for (int i = 0; i < 3; ++i) {
        es_ort_gate *gate = es_ort_gate_new(base, model, size, of.n_layer, of.n_embd, error, sizeof error);
        REQUIRE(gate, "%s", error);
        ask(gate, &of, 400);
        fold(gate, &of, folder);
        es_ort_gate_free(gate);
    }
    free(model);
    free(facts);
    printf("ort: 2700 calls as the reference\n"); /* the library stays loaded: it owns threads and an environment */
}
