/* Drives the standalone gate: random networks against a sum in double, and every refusal. */
#include "drive.h"
#include "gate.h"

#include <math.h>
#include <string.h>

enum { MOST_LAYERS = 4, N_BLOCKS = 3 };

typedef struct {
    int32_t depth, widths[MOST_LAYERS];
    float *weight[MOST_LAYERS], *bias[MOST_LAYERS];
} network;

static double *forward(const network *net, int32_t n_embd, const float *h, double *now, double *next) {
    for (int32_t j = 0; j < n_embd; ++j) now[j] = (double)h[j];
    int32_t n_in = n_embd;
    for (int32_t i = 0; i < net->depth; ++i) {
        for (int32_t k = 0; k < net->widths[i]; ++k) {
            double sum = (double)net->bias[i][k];
            for (int32_t j = 0; j < n_in; ++j) sum += (double)net->weight[i][(size_t)k * (size_t)n_in + (size_t)j] * now[j];
            next[k] = sum < 0 ? 0 : sum;
        }
        double *swap = now;
        now = next;
        next = swap;
        n_in = net->widths[i];
    }
    return now;
}

static void build(es_gate *gate, int32_t block, network *net, int32_t n_embd) {
    net->depth = 1 + below(MOST_LAYERS);
    int32_t n_in = n_embd;
    for (int32_t i = 0; i < net->depth; ++i) {
        net->widths[i] = i + 1 < net->depth ? 1 + below(40) : 1;
        net->weight[i] = floats((size_t)net->widths[i] * (size_t)n_in);
        net->bias[i] = floats((size_t)net->widths[i]);
        REQUIRE(es_gate_add(gate, block, net->widths[i], net->weight[i], net->bias[i]) == 0, "layer %d", i);
        n_in = net->widths[i];
    }
}

static void compare(es_gate *gate, int32_t block, const network *net, int32_t n_embd) {
    double a[256], b[256];
    int32_t rows = below(6);
    float *h = floats((size_t)rows * (size_t)n_embd), *out = floats((size_t)rows);
    REQUIRE(es_gate_run(gate, block, h, rows, out) == 0, "block %d", block);
    for (int32_t r = 0; r < rows; ++r) {
        double wanted = forward(net, n_embd, h + (size_t)r * (size_t)n_embd, a, b)[0];
        REQUIRE(fabs((double)out[r] - wanted) <= 1e-3 * (1 + fabs(wanted)), "row %d: %g, expected %g", r, (double)out[r], wanted);
    }
    if (rows) {
        h[0] = NAN;
        REQUIRE(es_gate_run(gate, block, h, 1, out) == 0 && isnan(out[0]), "a NaN was hidden");
    }
    free(h), free(out);
}

static void refuse(void) {
    float one[1] = {1}, out[1];
    REQUIRE(!es_gate_new(0, 4), "no blocks");
    REQUIRE(!es_gate_new(4, 0), "no width");
    es_gate *gate = es_gate_new(2, 1);
    REQUIRE(es_gate_add(gate, -1, 1, one, one) == 2, "block -1");
    REQUIRE(es_gate_add(gate, 2, 1, one, one) == 2, "block 2 of 2");
    REQUIRE(es_gate_add(gate, 0, 0, one, one) == 2, "width 0");
    REQUIRE(es_gate_run(gate, 0, one, 1, out) == 1, "no layers");
    float two[2] = {1, 2};
    REQUIRE(es_gate_add(gate, 0, 2, two, two) == 0, "two units");
    REQUIRE(es_gate_run(gate, 0, one, 1, out) == 1, "an end of width 2");
    REQUIRE(es_gate_run(gate, 5, one, 1, out) == 1, "block 5");
    es_gate_free(gate);
    es_gate_free(NULL);
}

void drive_gate(int gates) {
    refuse();
    for (int g = 0; g < gates; ++g) {
        int32_t n_embd = 1 + below(200);
        es_gate *gate = es_gate_new(N_BLOCKS, n_embd);
        network nets[N_BLOCKS];
        for (int32_t n = 0; n < N_BLOCKS; ++n) build(gate, n, &nets[n], n_embd);
        for (int i = 0; i < 6; ++i) {
            int32_t n = below(N_BLOCKS);
            compare(gate, n, &nets[n], n_embd);
        }
        for (int32_t n = 0; n < N_BLOCKS; ++n) {
            for (int32_t i = 0; i < nets[n].depth; ++i) free(nets[n].weight[i]), free(nets[n].bias[i]);
        }
        es_gate_free(gate);
    }
    printf("gate: %d networks as the reference\n", gates);
}
