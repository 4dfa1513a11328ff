#include "gate.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int32_t n_in, width;
    float *weight, *bias; /* [width][n_in], [width]: one allocation */
} dense;

typedef struct {
    dense *layers;
    int32_t depth;
} network;

struct es_gate {
    int32_t n_layer, n_embd;
    network *blocks;   /* [n_layer] */
    float *scratch[2]; /* [widest] each: what a layer reads and what it writes */
    int32_t widest;
};

es_gate *es_gate_new(int32_t n_layer, int32_t n_embd) {
    if (n_layer < 1 || n_embd < 1) return NULL;
    es_gate *gate = calloc(1, sizeof *gate);
    if (!gate) return NULL;
    gate->n_layer = n_layer;
    gate->n_embd = n_embd;
    gate->blocks = calloc((size_t)n_layer, sizeof *gate->blocks);
    if (gate->blocks) return gate;
    free(gate);
    return NULL;
}

void es_gate_free(es_gate *gate) {
    if (!gate) return;
    for (int32_t n = 0; n < gate->n_layer; ++n) {
        for (int32_t i = 0; i < gate->blocks[n].depth; ++i) free(gate->blocks[n].layers[i].weight);
        free(gate->blocks[n].layers);
    }
    free(gate->blocks);
    free(gate->scratch[0]);
    free(gate->scratch[1]);
    free(gate);
}

static int widen(es_gate *gate, int32_t width) {
    if (width <= gate->widest) return 0;
    for (int i = 0; i < 2; ++i) {
        float *more = realloc(gate->scratch[i], (size_t)width * sizeof *more);
        if (!more) return 1;
        gate->scratch[i] = more;
    }
    gate->widest = width;
    return 0;
}

int es_gate_add(es_gate *gate, int32_t block, int32_t width, const float *weight, const float *bias) {
    if (block < 0 || block >= gate->n_layer || width < 1) return 2;
    network *net = &gate->blocks[block];
    int32_t n_in = net->depth ? net->layers[net->depth - 1].width : gate->n_embd;
    size_t weights = (size_t)width * (size_t)n_in;
    float *own = malloc((weights + (size_t)width) * sizeof *own);
    dense *layers = realloc(net->layers, ((size_t)net->depth + 1) * sizeof *layers);
    if (layers) net->layers = layers;
    if (!own || !layers || widen(gate, width)) {
        free(own);
        return 1;
    }
    memcpy(own, weight, weights * sizeof *own);
    memcpy(own + weights, bias, (size_t)width * sizeof *own);
    net->layers[net->depth++] = (dense){n_in, width, own, own + weights};
    return 0;
}

/* Sixteen sums side by side: a compiler may not reorder one float sum, so it would not vectorise it. */
enum { LANES = 16 };

static float dot(const float *restrict a, const float *restrict b, int32_t n) {
    float sums[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int32_t j = 0; j < LANES; ++j) sums[j] += a[i + j] * b[i + j];
    }
    for (int32_t j = 0; i < n; ++i, ++j) sums[j] += a[i] * b[i];
    for (int32_t half = LANES / 2; half; half /= 2) {
        for (int32_t j = 0; j < half; ++j) sums[j] += sums[j + half];
    }
    return sums[0];
}

/* A NaN stays one: the tap must see that an activation has overflowed. */
static float relu(float x) { return x < 0.0f ? 0.0f : x; }

static void forward(const dense *layer, const float *in, float *out) {
    for (int32_t k = 0; k < layer->width; ++k) {
        out[k] = relu(dot(layer->weight + (size_t)k * (size_t)layer->n_in, in, layer->n_in) + layer->bias[k]);
    }
}

int es_gate_run(void *self, int32_t block, const float *activation, int32_t rows, float *coefficient) {
    es_gate *gate = self;
    if (block < 0 || block >= gate->n_layer) return 1;
    const network *net = &gate->blocks[block];
    if (!net->depth || net->layers[net->depth - 1].width != 1) return 1;
    for (int32_t r = 0; r < rows; ++r) {
        const float *in = activation + (size_t)r * (size_t)gate->n_embd;
        for (int32_t i = 0; i < net->depth; ++i) {
            float *out = i + 1 < net->depth ? gate->scratch[i % 2] : coefficient + r;
            forward(&net->layers[i], in, out);
            in = out;
        }
    }
    return 0;
}
