/* A model in C with everything a class can have: it says whether a number is above a threshold. */
#include <stdio.h>
#include <stdlib.h>

#include "decurion.h"

typedef struct Model {
    double threshold;
    unsigned long learned;
} Model;

/* The first number in some JSON, if there is one: enough for arguments like [0.7] and {"threshold":0.7}. */
static int number_in(decurion_bytes json, double *number) {
    char text[64];
    const char *digit;
    size_t len = json.len < sizeof text - 1 ? json.len : sizeof text - 1;
    memcpy(text, json.ptr, len);
    text[len] = '\0';
    digit = strpbrk(text, "-0123456789");
    if (!digit) {
        return 0;
    }
    *number = strtod(digit, NULL);
    return 1;
}

static int32_t Model_create(decurion_bytes args, void **instance, decurion_error_slot *error) {
    double threshold;
    Model *model;
    if (!number_in(args, &threshold)) {
        return decurion_refuse(error, "argument 'threshold' of Model is missing");
    }
    model = malloc(sizeof *model);
    if (!model) {
        return decurion_refuse(error, "out of memory");
    }
    model->threshold = threshold;
    model->learned = 0;
    *instance = model;
    return DECURION_OK;
}

static void Model_destroy(void *instance) { free(instance); }

/* The number in the body, or 0 after the exchange was ended as failed. */
static int argument(decurion_exchange *exchange, double *number) {
    char body[64];
    ptrdiff_t len = decurion_read(exchange, body, sizeof body);
    decurion_bytes bytes;
    bytes.ptr = body;
    bytes.len = len > 0 ? (size_t)len : 0;
    if (number_in(bytes, number)) {
        return 1;
    }
    decurion_fail(exchange, 400, "a number is expected here");
    return 0;
}

static int32_t Model_call(void *instance, decurion_exchange *exchange) {
    const Model *model = instance;
    double number;
    if (!argument(exchange, &number)) {
        return DECURION_OK;
    }
    return decurion_respond_text(exchange, 200, number > model->threshold ? "above" : "below");
}

static int32_t Model_predict(void *instance, decurion_exchange *exchange) {
    const Model *model = instance;
    double number;
    if (!argument(exchange, &number)) {
        return DECURION_OK;
    }
    return decurion_result(exchange, number > model->threshold ? "true" : "false");
}

static int32_t Model_learn(void *instance, decurion_exchange *exchange) {
    Model *model = instance;
    char count[24];
    snprintf(count, sizeof count, "%lu", ++model->learned);
    return decurion_result(exchange, count);
}

static int32_t Model_reconfigure(void *instance, decurion_bytes config, decurion_error_slot *error) {
    Model *model = instance;
    double threshold;
    if (!number_in(config, &threshold)) {
        return decurion_refuse(error, "user_config lacks a threshold");
    }
    model->threshold = threshold;
    return DECURION_OK;
}

static int32_t Model_check_health(void *instance, decurion_error_slot *error) {
    const Model *model = instance;
    return model->learned < 3 ? DECURION_OK : decurion_refuse(error, "learned too much");
}

#define MODEL_METHODS(FIRST, NEXT)                                                                                    \
    FIRST(Model, predict, SHARED, "\"number\"", "bool")                                                               \
    NEXT(Model, learn, EXCLUSIVE, "", "number")

DECURION_CLASS(Model, SHARED, EXCLUSIVE, SHARED, MODEL_METHODS)
