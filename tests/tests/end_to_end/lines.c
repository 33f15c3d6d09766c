/* A protocol of its own behind an `Upgrade: lines`: each line comes back with the replica's version before it. */
#include "decurion.h"

static int say(decurion_exchange *exchange, decurion_bytes bytes) {
    while (bytes.len > 0) {
        ptrdiff_t taken = decurion_the_host->respond_write(exchange, bytes, 0);
        if (taken < 0) {
            return 0;
        }
        bytes.ptr += taken;
        bytes.len -= (size_t)taken;
    }
    return decurion_the_host->respond_flush(exchange) == DECURION_OK;
}

static int offers_lines(const decurion_request *request) {
    size_t at;
    for (at = 0; at < request->header_count; at++) {
        decurion_bytes name = request->headers[at].name, value = request->headers[at].value;
        if (name.len == 7 && (name.ptr[0] == 'u' || name.ptr[0] == 'U') && value.len == 5 &&
            memcmp(value.ptr, "lines", 5) == 0) {
            return 1;
        }
    }
    return 0;
}

static void talk(decurion_exchange *exchange, decurion_bytes version) {
    char buffer[4096];
    int begins = 1;
    for (;;) {
        ptrdiff_t at, got = decurion_the_host->body_read(exchange, buffer, sizeof buffer, 0);
        if (got <= 0) {
            if (got == 0) {
                say(exchange, decurion_text("bye\n"));
            }
            return;
        }
        for (at = 0; at < got;) {
            decurion_bytes part;
            const char *end = memchr(buffer + at, '\n', (size_t)(got - at));
            part.ptr = buffer + at;
            part.len = end ? (size_t)(end + 1 - part.ptr) : (size_t)(got - at);
            if (begins && !(say(exchange, version) && say(exchange, decurion_text(": ")))) {
                return;
            }
            if (!say(exchange, part)) {
                return;
            }
            begins = end != 0;
            at += (ptrdiff_t)part.len;
        }
    }
}

static int32_t answer(void *unused, decurion_exchange *exchange) {
    decurion_bytes version = decurion_the_host->context->version;
    decurion_header header;
    (void)unused;
    if (!offers_lines(decurion_request_of(exchange))) {
        return decurion_respond(exchange, 200, "text/plain; charset=utf-8", version);
    }
    header.name = decurion_text("upgrade");
    header.value = decurion_text("lines");
    if (decurion_the_host->respond_start(exchange, 101, &header, 1, UINT64_MAX) != DECURION_OK) {
        return decurion_fail(exchange, 500, "no tunnel");
    }
    talk(exchange, version);
    decurion_the_host->finish(exchange);
    return DECURION_OK;
}

DECURION_FUNCTION(lines, answer)
