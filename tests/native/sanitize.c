/* The native code of the runtime under the sanitizers: sanitize SEED DECODES [LIBONNXRUNTIME FOLDER]. */
#include "drive.h"

uint64_t drive_state;

int main(int count, char **words) {
    REQUIRE(count == 3 || count == 5, "usage: %s SEED DECODES [LIBONNXRUNTIME FOLDER]", words[0]);
    drive_state = strtoull(words[1], NULL, 10) * 2 + 1;
    drive_tap(atoi(words[2]));
    drive_gate(atoi(words[2]) / 100);
    if (count == 5) drive_ort(words[3], words[4]);
    return 0;
}
