#include "decurion.h"

static int32_t answer(void *unused, decurion_exchange *exchange) {
    (void)unused;
    return decurion_respond_text(exchange, 200, "Hello world from C!");
}

DECURION_FUNCTION(hello_c, answer)
