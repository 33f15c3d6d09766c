/*
 * decurion.h: write deployments for Decurion in C or C++. The plugin ABI, 1.1.
 *
 * A library exports two data symbols for each class: `decurion_class_v1_NAME`, a table of functions, and
 * `decurion_meta_v1_NAME`, one line of JSON that tools read without running the library. DECURION_FUNCTION and
 * DECURION_CLASS, at the end, make both. Build with: cc -shared -fPIC -I DIR -o libNAME.so NAME.c
 *
 * Rules
 *  - Memory never changes owner: what a pointer leads to is lent for the call it is passed to, or as long as its
 *    comment says. Whoever receives bytes copies what it keeps.
 *  - Nothing is thrown across the boundary: C++ catches what it throws.
 *  - Entries run on several threads at once, unless they are EXCLUSIVE: then nothing of the instance runs beside them.
 *  - Every exchange is ended exactly once: by respond, respond_call, finish or fail. That may be after the entry has
 *    returned DECURION_OK, and on another thread. An entry that returns anything else is ended by the host.
 *  - Fields are only ever appended to the structures; `size` says how many there are.
 */
#ifndef DECURION_H
#define DECURION_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The bytes "DECURION" in memory order on a little-endian machine. */
#define DECURION_MAGIC UINT64_C(0x4e4f495255434544)
#define DECURION_ABI_MAJOR 1
#define DECURION_ABI_MINOR 1
/* The same for the metadata: `1,1`. */
#define DECURION_ABI_TEXT DECURION_ABI_TEXT_OF(DECURION_ABI_MAJOR, DECURION_ABI_MINOR)
#define DECURION_ABI_TEXT_OF(major, minor) DECURION_ABI_TEXT_AS(major, minor)
#define DECURION_ABI_TEXT_AS(major, minor) #major "," #minor

/* What entries and host functions return. */
enum {
    DECURION_OK = 0,         /* Done. */
    DECURION_ERROR = -1,     /* Failed; the detail was given with set_error, or belongs to the function. */
    DECURION_PENDING = -2,   /* Would wait; the waker that was given is called when trying again makes sense. */
    DECURION_CANCELLED = -3, /* The client left, the caller cancelled, or the deadline passed. */
    DECURION_INVALID = -4,   /* An argument breaks the contract. */
    DECURION_NOT_FOUND = -5, /* No such deployment, method or header. */
    DECURION_BUSY = -6,      /* No capacity: nothing was run. */
    DECURION_BROKEN = -7,    /* The body was cut off, or the callee died while it ran. */
    DECURION_DEADLINE = -8   /* The deadline passed. */
};

/* Flags of classes and methods. */
#define DECURION_FLAG_EXCLUSIVE 1u /* Runs alone: nothing else of the instance beside it. */
#define DECURION_FLAG_ASYNC 2u     /* May return before its exchange is ended. */
#define DECURION_FLAG_STREAM 4u    /* Answers with a stream of messages. */

/* How arguments and results are written. */
#define DECURION_ENCODING_RAW 0u
#define DECURION_ENCODING_JSON 1u    /* Arguments: an array by position, or an object by name. */
#define DECURION_ENCODING_BINCODE 2u /* Between Rust ends only. */

/* What an exchange is. */
#define DECURION_KIND_HTTP 0u /* A request, for `call`. */
#define DECURION_KIND_CALL 1u /* A call through a handle, for `invoke`. */

/* Log levels. */
#define DECURION_LEVEL_ERROR 1u
#define DECURION_LEVEL_WARN 2u
#define DECURION_LEVEL_INFO 3u
#define DECURION_LEVEL_DEBUG 4u
#define DECURION_LEVEL_TRACE 5u
#define DECURION_METRIC_COUNTER 0u
#define DECURION_METRIC_GAUGE 1u
#define DECURION_METRIC_HISTOGRAM 2u

/* Borrowed bytes, not ended by NUL. `ptr` may be NULL where `len` is 0. */
typedef struct decurion_bytes {
    const char *ptr;
    size_t len;
} decurion_bytes;

/* One header field. Names are lower case; values have no white space around them. */
typedef struct decurion_header {
    decurion_bytes name;
    decurion_bytes value;
} decurion_header;

/* Called once, from any thread. It must not block, nor call the host, but for run_next. The host copies the structure. */
typedef struct decurion_waker {
    void (*wake)(void *data);
    void *data;
} decurion_waker;

/* One request or call that this replica is answering. */
typedef struct decurion_exchange decurion_exchange;
/* One call that this replica has made to another deployment. */
typedef struct decurion_call decurion_call;
/* Where an entry that fails puts its message. */
typedef struct decurion_error_slot decurion_error_slot;

/* Who this replica is. Lives as long as the process. */
typedef struct decurion_context {
    uint32_t size;
    uint32_t rank;       /* 0-based place among the deployment's replicas, stable over restarts. */
    uint32_t world_size; /* How many replicas the deployment is to have. */
    uint32_t threads;    /* Handler threads of this replica. */
    decurion_bytes deployment;
    decurion_bytes replica;
    decurion_bytes version;
    decurion_bytes application;
} decurion_context;

/* What is known of a request when its handler starts. Lives until the exchange is ended. */
typedef struct decurion_request {
    uint32_t size;
    uint32_t kind;
    decurion_bytes id;           /* From X-Request-ID, or made. */
    decurion_bytes method;       /* HTTP method, or the method's name of a call. */
    decurion_bytes path;         /* Whole, percent-encoding kept, without the query. */
    decurion_bytes query;        /* What follows '?'. */
    decurion_bytes route_prefix; /* What routed here, without a '/' at its end; empty for "/". */
    decurion_bytes traceparent;
    decurion_bytes model_id;
    const decurion_header *headers;
    size_t header_count;
    uint64_t deadline_ns;    /* CLOCK_MONOTONIC; 0: none. */
    uint64_t content_length; /* UINT64_MAX where it was not announced. */
    uint32_t encoding;       /* Of a call's arguments. */
    uint32_t method_index;   /* Into the class's methods, of a call; UINT32_MAX for HTTP. */
} decurion_request;

/* A call to another deployment. Lent to call_start for as long as that runs. */
typedef struct decurion_call_spec {
    uint32_t size;
    uint32_t kind;
    decurion_bytes deployment;
    decurion_bytes method; /* Method of the class, or the HTTP method. */
    decurion_bytes target; /* Path and query for HTTP, else empty. */
    const decurion_header *headers;
    size_t header_count;
    uint32_t encoding;
    uint32_t flags; /* 0. */
    decurion_bytes body;
    decurion_exchange *parent; /* On whose behalf: its deadline, id and cancellation travel along. May be NULL. */
    uint64_t deadline_ns;      /* 0: the parent's. The earlier of the two holds. */
    decurion_bytes model_id;   /* Since 1.1. Empty, or prefer replicas that hold this model. */
    decurion_bytes replica;    /* Since 1.1. Empty, or the one replica that is to answer. */
} decurion_call_spec;

/* The answer to a call. Lives until call_free. */
typedef struct decurion_call_reply {
    uint32_t size;
    uint32_t status; /* HTTP status; of a method's call: 200 for a result, else the class of the error. */
    uint32_t encoding;
    uint32_t flags;
    const decurion_header *headers;
    size_t header_count;
    decurion_bytes body; /* The result, the whole answer, or the error's text. */
} decurion_call_reply;

/* What a class offers beside `call`. */
typedef struct decurion_method {
    decurion_bytes name;
    uint32_t flags;
    uint32_t reserved; /* 0. */
} decurion_method;

/* The host's functions. Live as long as the process; any thread may call them. */
typedef struct decurion_host {
    uint64_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;
    const decurion_context *context;

    /* Puts a message and an HTTP-like code (0: none) into the slot. The last one stands. */
    void (*set_error)(decurion_error_slot *slot, uint32_t code, decurion_bytes message);
    /* Writes a log line, with the exchange's id where it is not NULL. */
    void (*log)(decurion_exchange *exchange, uint32_t level, decurion_bytes target, decurion_bytes message);

    /* The request; NULL once the exchange is ended. */
    const decurion_request *(*request)(decurion_exchange *exchange);
    /* 1 once nobody waits any more. */
    int32_t (*is_cancelled)(decurion_exchange *exchange);
    /* Has the waker called when the exchange is cancelled, at once where it is already; NULL takes it back. */
    int32_t (*on_cancel)(decurion_exchange *exchange, const decurion_waker *waker);
    /* Reads body bytes: how many, 0 at the end, or PENDING (only with a waker; without one it waits), CANCELLED,
     * BROKEN. */
    ptrdiff_t (*body_read)(decurion_exchange *exchange, void *buffer, size_t len, const decurion_waker *waker);

    /* Answers with a whole body, and ends the exchange. INVALID for a bad status or header: it is still open. */
    int32_t (*respond)(decurion_exchange *exchange, uint32_t status, const decurion_header *headers,
                       size_t header_count, decurion_bytes body);
    /* Starts a streamed answer; content_length is UINT64_MAX where it is not known. Status 101 answers a request that
       has an `upgrade` field: from then on body_read gives what the client sends and respond_write takes what it gets,
       without a deadline, until finish. */
    int32_t (*respond_start)(decurion_exchange *exchange, uint32_t status, const decurion_header *headers,
                             size_t header_count, uint64_t content_length);
    /* Writes body bytes of a streamed answer: how many were taken, or PENDING (only with a waker), CANCELLED. */
    ptrdiff_t (*respond_write)(decurion_exchange *exchange, decurion_bytes bytes, const decurion_waker *waker);
    /* Sends what was written on its way. */
    int32_t (*respond_flush)(decurion_exchange *exchange);
    /* Ends a streamed answer. */
    int32_t (*finish)(decurion_exchange *exchange);
    /* Ends a method's call with its result. */
    int32_t (*respond_call)(decurion_exchange *exchange, uint32_t encoding, decurion_bytes result);
    /* Ends the exchange as failed: `code` and `public_text` for the caller (0, or what is no status of an error: a 500
     * with a fixed body), `detail` for the log. */
    int32_t (*fail)(decurion_exchange *exchange, uint32_t code, decurion_bytes public_text, decurion_bytes detail);

    /* Starts a call to another deployment. The arguments are copied or sent before it returns. */
    int32_t (*call_start)(const decurion_call_spec *spec, decurion_call **call);
    /* Waits for the whole answer: OK (an error of the callee is an answer, too), PENDING (only with a waker),
     * CANCELLED, DEADLINE, BROKEN, BUSY, NOT_FOUND. */
    int32_t (*call_wait)(decurion_call *call, decurion_call_reply *reply, const decurion_waker *waker);
    /* Reads the answer's body as it streams in, instead of call_wait. As body_read. */
    ptrdiff_t (*call_read)(decurion_call *call, void *buffer, size_t len, const decurion_waker *waker);
    /* Tells the callee that nobody waits. The call must still be freed. */
    void (*call_cancel)(decurion_call *call);
    /* Frees a call, cancelling it where it still runs. */
    void (*call_free)(decurion_call *call);
    /* OK where the deployment exists; the encodings it takes as bits, 1 << n. */
    int32_t (*deployment_find)(decurion_bytes deployment, uint32_t *encodings);

    /* Since 1.1. Waits for the head of the answer alone; call_read then gives the body as it streams in. */
    int32_t (*call_head)(decurion_call *call, decurion_call_reply *reply, const decurion_waker *waker);
    /* Since 1.1. Calls `each` with the id of each replica that takes calls now, before it returns. */
    int32_t (*deployment_replicas)(decurion_bytes deployment, void *data,
                                   void (*each)(void *data, decurion_bytes replica));
    /* Since 1.1. Says which models this replica holds or is loading, in place of what was said before. Ids beyond the
     * first 256 are left out. */
    int32_t (*models_hold)(const decurion_bytes *ids, size_t count);
    /* Since 1.1. Measures: adds to a counter, sets a gauge or records into a histogram (DECURION_METRIC_..). OK, INVALID
     * for a name, label or value that is not taken, BUSY where there are too many series. */
    int32_t (*metric)(uint32_t kind, decurion_bytes name, const decurion_header *labels, size_t label_count,
                      double value);
    /* Since 1.1. Calls `each` with words on what a function of calls or deployments refused last on this thread, before
     * it returns; NOT_FOUND where there are none. "there is no deployment 'x'; there are: a, b" */
    int32_t (*refusal_words)(void *data, void (*each)(void *data, decurion_bytes words));
    /* Since 1.1. The one function that a waker may call: has `run` called with `data` on the thread that calls the waker,
     * soon after that has returned and before this thread begins with another request. OK, or BUSY where this thread is
     * not one that could: then what was woken has to be run elsewhere. */
    int32_t (*run_next)(void (*run)(void *data), void *data);
} decurion_host;

/* One class of deployments. */
typedef struct decurion_class {
    uint64_t magic;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t size;
    decurion_bytes name;
    decurion_bytes metadata;
    const decurion_method *methods;
    size_t method_count;
    uint32_t call_flags;
    uint32_t reconfigure_flags;

    /* Constructs an instance from JSON (an object by name, an array by position, null for none). On failure: a
     * message in `error`, and DECURION_ERROR. */
    int32_t (*create)(const decurion_host *host, decurion_bytes args, void **instance, decurion_error_slot *error);
    /* Destroys it, once, when nothing of it runs any more. */
    void (*destroy)(void *instance);
    /* Answers an HTTP request. NULL: no HTTP side. */
    int32_t (*call)(void *instance, decurion_exchange *exchange);
    /* Answers a method's call. */
    int32_t (*invoke)(void *instance, decurion_exchange *exchange);
    /* Takes a new user_config (JSON). On failure nothing has changed. */
    int32_t (*reconfigure)(void *instance, decurion_bytes config, decurion_error_slot *error);
    /* OK, or DECURION_ERROR with the reason in `error`. Runs beside requests. */
    int32_t (*check_health)(void *instance, decurion_error_slot *error);
} decurion_class;

/* ---- Helpers ------------------------------------------------------------------------------------------------- */

/* The host, once a class of this library was constructed. One for the library, whatever the number of its files. */
extern __attribute__((visibility("hidden"))) const decurion_host *decurion_the_host;
__attribute__((weak, visibility("hidden"))) const decurion_host *decurion_the_host = 0;

/* Bytes of a text that is ended by NUL. */
static inline decurion_bytes decurion_text(const char *text) {
    decurion_bytes bytes;
    bytes.ptr = text;
    bytes.len = text ? strlen(text) : 0;
    return bytes;
}

/* Whether bytes are this text. */
static inline int decurion_is(decurion_bytes bytes, const char *text) {
    return bytes.len == strlen(text) && (bytes.len == 0 || memcmp(bytes.ptr, text, bytes.len) == 0);
}

/* The request of an exchange that is not ended. */
static inline const decurion_request *decurion_request_of(decurion_exchange *exchange) {
    return decurion_the_host->request(exchange);
}

/* Fails an entry that has an error slot: `return decurion_refuse(error, "why");` */
static inline int32_t decurion_refuse(decurion_error_slot *error, const char *message) {
    decurion_the_host->set_error(error, 0, decurion_text(message));
    return DECURION_ERROR;
}

/* Ends an exchange as failed. With code 0 the client gets a 500 with a fixed body, and the log gets the text. */
static inline int32_t decurion_fail(decurion_exchange *exchange, uint32_t code, const char *text) {
    decurion_bytes bytes = decurion_text(text);
    decurion_bytes none = decurion_text("");
    decurion_the_host->fail(exchange, code, code ? bytes : none, code ? none : bytes);
    return DECURION_OK;
}

/* Answers with a body of a type. */
static inline int32_t decurion_respond(decurion_exchange *exchange, uint32_t status, const char *content_type,
                                       decurion_bytes body) {
    decurion_header header;
    header.name = decurion_text("content-type");
    header.value = decurion_text(content_type);
    if (decurion_the_host->respond(exchange, status, &header, 1, body) == DECURION_INVALID) {
        return decurion_fail(exchange, 0, "the answer has a status or a header field that HTTP does not allow");
    }
    return DECURION_OK;
}

/* Answers with text. */
static inline int32_t decurion_respond_text(decurion_exchange *exchange, uint32_t status, const char *text) {
    return decurion_respond(exchange, status, "text/plain; charset=utf-8", decurion_text(text));
}

/* Ends a method's call with a result in JSON. */
static inline int32_t decurion_result(decurion_exchange *exchange, const char *json) {
    if (decurion_the_host->respond_call(exchange, DECURION_ENCODING_JSON, decurion_text(json)) == DECURION_INVALID) {
        return decurion_fail(exchange, 0, "the host refused the result");
    }
    return DECURION_OK;
}

/* Reads the body until the buffer is full or the body at its end: how many bytes, or a status below 0. */
static inline ptrdiff_t decurion_read(decurion_exchange *exchange, void *buffer, size_t len) {
    size_t filled = 0;
    while (filled < len) {
        ptrdiff_t got = decurion_the_host->body_read(exchange, (char *)buffer + filled, len - filled, 0);
        if (got < 0) {
            return got;
        }
        if (got == 0) {
            break;
        }
        filled += (size_t)got;
    }
    return (ptrdiff_t)filled;
}

/* Writes a log line, for the exchange where it is not NULL. */
static inline void decurion_log(decurion_exchange *exchange, uint32_t level, const char *message) {
    decurion_the_host->log(exchange, level, decurion_text("c"), decurion_text(message));
}

/* Measures without labels: decurion_measure(DECURION_METRIC_COUNTER, "rows", 1). Does nothing where the host has no
 * metrics (1.0). With labels: decurion_the_host->metric. */
static inline void decurion_measure(uint32_t kind, const char *name, double value) {
    if (decurion_the_host->size >= offsetof(decurion_host, metric) + sizeof(decurion_the_host->metric)) {
        decurion_the_host->metric(kind, decurion_text(name), 0, 0, value);
    }
}

#ifdef __cplusplus
}
#define DECURION_EXPORT extern "C" __attribute__((visibility("default")))
#else
#define DECURION_EXPORT extern __attribute__((visibility("default")))
#endif

/* ---- Classes ------------------------------------------------------------------------------------------------- */

/*
 * DECURION_FUNCTION(NAME, FUNCTION): a class without state that answers HTTP requests with
 *     int32_t FUNCTION(void *unused, decurion_exchange *exchange)
 * on as many threads as there are.
 */
#define DECURION_FUNCTION(NAME, FUNCTION)                                                                             \
    static int32_t NAME##_create(decurion_bytes args, void **instance, decurion_error_slot *error) {                  \
        static char stateless;                                                                                        \
        *instance = &stateless;                                                                                       \
        return args.len <= 4 ? DECURION_OK : decurion_refuse(error, #NAME " takes no arguments");                     \
    }                                                                                                                 \
    static void NAME##_destroy(void *instance) { (void)instance; }                                                    \
    DECURION_CLASS_OF(NAME, FUNCTION, SHARED, NONE, NONE, DECURION_NO_METHODS)

/*
 * DECURION_CLASS(NAME, CALL, RECONFIGURE, CHECK_HEALTH, METHODS): a class with state, from static functions
 *     int32_t NAME_create(decurion_bytes args, void **instance, decurion_error_slot *error)
 *     void NAME_destroy(void *instance)
 *     int32_t NAME_call(void *instance, decurion_exchange *exchange)
 *     int32_t NAME_reconfigure(void *instance, decurion_bytes config, decurion_error_slot *error)
 *     int32_t NAME_check_health(void *instance, decurion_error_slot *error)
 * CALL and RECONFIGURE are SHARED, EXCLUSIVE or NONE; CHECK_HEALTH is SHARED or NONE. What is NONE need not be there.
 * METHODS is DECURION_NO_METHODS, or a macro that lists them, each from int32_t NAME_METHOD(void *, decurion_exchange *):
 *     #define MODEL_METHODS(FIRST, NEXT)                                             \
 *         FIRST(Model, predict, SHARED, "\"number\"", "string")                      \
 *         NEXT(Model, learn, EXCLUSIVE, "\"number\",\"bool\"", "null")
 * with the types of arguments (a JSON list without brackets) and of the result, for people to read.
 */
#define DECURION_CLASS(NAME, CALL, RECONFIGURE, CHECK_HEALTH, METHODS)                                                \
    DECURION_CLASS_OF(NAME, NAME##_call, CALL, RECONFIGURE, CHECK_HEALTH, METHODS)

#define DECURION_NO_METHODS(FIRST, NEXT)

#define DECURION_CLASS_OF(NAME, CALL_FUNCTION, CALL, RECONFIGURE, CHECK_HEALTH, METHODS)                              \
    static int32_t decurion_create_##NAME(const decurion_host *host, decurion_bytes args, void **instance,            \
                                          decurion_error_slot *error) {                                               \
        if (!host || host->magic != DECURION_MAGIC || host->abi_major != DECURION_ABI_MAJOR) {                        \
            return DECURION_INVALID;                                                                                  \
        }                                                                                                             \
        decurion_the_host = host;                                                                                     \
        return NAME##_create(args, instance, error);                                                                  \
    }                                                                                                                 \
    static int32_t decurion_invoke_##NAME(void *instance, decurion_exchange *exchange) {                              \
        decurion_bytes method = decurion_request_of(exchange)->method;                                                \
        METHODS(DECURION_DISPATCH_METHOD, DECURION_DISPATCH_METHOD)                                                   \
        (void)instance;                                                                                               \
        (void)method;                                                                                                 \
        return DECURION_NOT_FOUND;                                                                                    \
    }                                                                                                                 \
    static const decurion_method decurion_methods_##NAME[] = {                                                        \
        METHODS(DECURION_LIST_METHOD, DECURION_LIST_METHOD){{0, 0}, 0, 0}};                                           \
    DECURION_EXPORT const char decurion_meta_v1_##NAME[];                                                             \
    DECURION_EXPORT const decurion_class decurion_class_v1_##NAME;                                                    \
    const char decurion_meta_v1_##NAME[] =                                                                            \
        "{\"abi\":[" DECURION_ABI_TEXT "],\"sdk\":\"c\",\"class\":\"" #NAME "\"" DECURION_META_##CALL("call")         \
            DECURION_META_##RECONFIGURE("reconfigure") DECURION_META_##CHECK_HEALTH("check_health")                   \
                ",\"encodings\":[\"json\"],\"methods\":[" METHODS(DECURION_META_FIRST, DECURION_META_NEXT) "]}";      \
    const decurion_class decurion_class_v1_##NAME = {                                                                 \
        DECURION_MAGIC,                                                                                               \
        DECURION_ABI_MAJOR,                                                                                           \
        DECURION_ABI_MINOR,                                                                                           \
        (uint32_t)sizeof(decurion_class),                                                                             \
        {#NAME, sizeof(#NAME) - 1},                                                                                   \
        {decurion_meta_v1_##NAME, sizeof(decurion_meta_v1_##NAME) - 1},                                               \
        decurion_methods_##NAME,                                                                                      \
        sizeof(decurion_methods_##NAME) / sizeof(decurion_method) - 1,                                                \
        DECURION_FLAGS_##CALL,                                                                                        \
        DECURION_FLAGS_##RECONFIGURE,                                                                                 \
        decurion_create_##NAME,                                                                                       \
        NAME##_destroy,                                                                                               \
        DECURION_ENTRY_##CALL(CALL_FUNCTION),                                                                         \
        decurion_invoke_##NAME,                                                                                       \
        DECURION_ENTRY_##RECONFIGURE(NAME##_reconfigure),                                                             \
        DECURION_ENTRY_##CHECK_HEALTH(NAME##_check_health)};

#define DECURION_FLAGS_NONE 0u
#define DECURION_FLAGS_SHARED 0u
#define DECURION_FLAGS_EXCLUSIVE DECURION_FLAG_EXCLUSIVE
#define DECURION_ENTRY_NONE(FUNCTION) 0
#define DECURION_ENTRY_SHARED(FUNCTION) FUNCTION
#define DECURION_ENTRY_EXCLUSIVE(FUNCTION) FUNCTION
#define DECURION_META_NONE(FIELD) ""
#define DECURION_META_SHARED(FIELD) ",\"" FIELD "\":\"shared\""
#define DECURION_META_EXCLUSIVE(FIELD) ",\"" FIELD "\":\"exclusive\""
#define DECURION_WORD_SHARED "shared"
#define DECURION_WORD_EXCLUSIVE "exclusive"
#define DECURION_META_FIRST(NAME, METHOD, HOW, ARGUMENTS, RETURNS)                                                    \
    "{\"name\":\"" #METHOD "\",\"concurrency\":\"" DECURION_WORD_##HOW "\",\"arguments\":[" ARGUMENTS                 \
    "],\"returns\":\"" RETURNS "\"}"
#define DECURION_META_NEXT(NAME, METHOD, HOW, ARGUMENTS, RETURNS)                                                     \
    "," DECURION_META_FIRST(NAME, METHOD, HOW, ARGUMENTS, RETURNS)
#define DECURION_LIST_METHOD(NAME, METHOD, HOW, ARGUMENTS, RETURNS)                                                   \
    {{#METHOD, sizeof(#METHOD) - 1}, DECURION_FLAGS_##HOW, 0},
#define DECURION_DISPATCH_METHOD(NAME, METHOD, HOW, ARGUMENTS, RETURNS)                                               \
    if (decurion_is(method, #METHOD)) {                                                                               \
        return NAME##_##METHOD(instance, exchange);                                                                   \
    }

#endif
