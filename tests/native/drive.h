/* What the parts of the sanitizer driver share: a random generator and a way to fail. */
#ifndef EDGESTEER_DRIVE_H
#define EDGESTEER_DRIVE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* xorshift64*: the same numbers on every machine. */
extern uint64_t drive_state;

static inline uint32_t draw(void) {
    drive_state ^= drive_state >> 12;
    drive_state ^= drive_state << 25;
    drive_state ^= drive_state >> 27;
    return (uint32_t)((drive_state * UINT64_C(2685821657736338717)) >> 32);
}
static inline int32_t below(int32_t n) { return (int32_t)(draw() % (uint32_t)n); }
static inline int chance(int percent) { return below(100) < percent; }
static inline float number(void) { return (float)draw() / 2147483648.0f - 1.0f; } /* [-1, 1] */

/* Exactly so many, so that the sanitizer sees the first byte beyond; filled with numbers. */
static inline float *floats(size_t n) {
    float *values = malloc(n ? n * sizeof *values : 1);
    if (!values) abort();
    for (size_t i = 0; i < n; ++i) values[i] = number();
    return values;
}

#define REQUIRE(law, ...)                                            \
    do {                                                             \
        if (!(law)) {                                                \
            fprintf(stderr, "%s:%d: " #law ": ", __FILE__, __LINE__); \
            fprintf(stderr, __VA_ARGS__);                            \
            fputc('\n', stderr);                                     \
            exit(1);                                                 \
        }                                                            \
    } while (0)

void drive_tap(int decodes);
void drive_gate(int gates);
void drive_ort(const char *library, const char *folder);

#endif
