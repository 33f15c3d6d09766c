/*
 * decurion.hpp: write deployments for Decurion in C++17. A thin, header-only layer over decurion.h: what must be freed
 * or ended frees and ends itself, and exceptions become errors.
 *
 *     #include "decurion.hpp"
 *
 *     struct Model {
 *         explicit Model(std::string_view args);                                  // the constructor's arguments, as JSON
 *         decurion::Response call(decurion::Request &request);                    // HTTP
 *         std::string predict(std::string_view args);                             // a method: JSON in, JSON out
 *         void reconfigure(std::string_view config);                              // a new user_config, as JSON
 *         void check_health();
 *     };
 *     #define MODEL_METHODS(FIRST, NEXT) FIRST(Model, predict, SHARED, "\"number\"", "bool")
 *     DECURION_CPP_CLASS(Model, SHARED, EXCLUSIVE, SHARED, MODEL_METHODS)
 *
 * Build with: c++ -std=c++17 -shared -fPIC -fvisibility=hidden -I DIR -o libNAME.so NAME.cpp
 *
 * Rules
 *  - What throws decurion::Error(422, "..") is answered with that status and text; what throws anything else is a 500
 *    with a fixed body, and the log gets what(). Nothing is thrown across the boundary.
 *  - JSON is text here: take the library that you like for it.
 *  - A `std::string_view` that the host lends is good until the handler returns.
 */
#ifndef DECURION_HPP
#define DECURION_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "decurion.h"

namespace decurion {

/* Bytes of ours, lent to the host for a call. */
inline decurion_bytes bytes(std::string_view text) {
    decurion_bytes lent;
    lent.ptr = text.data();
    lent.len = text.size();
    return lent;
}

/* Bytes of the host's, lent to us. */
inline std::string_view view(decurion_bytes bytes) {
    return bytes.len == 0 ? std::string_view() : std::string_view(bytes.ptr, bytes.len);
}

/* An error whose status and text the caller gets. Code 0: a 500 with a fixed body; the text is for the log. */
class Error : public std::exception {
  public:
    explicit Error(std::string text) : code_(0), text_(std::move(text)) {}
    Error(std::uint32_t code, std::string text) : code_(code), text_(std::move(text)) {}
    const char *what() const noexcept override { return text_.c_str(); }
    std::uint32_t code() const noexcept { return code_; }

  private:
    std::uint32_t code_;
    std::string text_;
};

/* Nobody waits for the answer any more: thrown out of reads and writes, so that a handler ends. */
class Cancelled : public Error {
  public:
    Cancelled() : Error(499, "nobody waits for the answer any more") {}
};

namespace detail {

/* What a status below zero means to whoever asked for something. */
[[noreturn]] inline void raise(std::ptrdiff_t status, const std::string &what) {
    switch (status) {
    case DECURION_CANCELLED:
        throw Cancelled();
    case DECURION_DEADLINE:
        throw Error(504, "the deadline passed while " + what);
    case DECURION_BUSY:
        throw Error(503, "there was no capacity while " + what);
    case DECURION_NOT_FOUND:
        throw Error("there is no such deployment or method: " + what);
    case DECURION_BROKEN:
        throw Error("cut off while " + what);
    case DECURION_INVALID:
        throw Error("refused by the host while " + what);
    default:
        throw Error("failed with status " + std::to_string(status) + " while " + what);
    }
}

} // namespace detail

/* Who this replica is. */
inline const decurion_context &context() { return *decurion_the_host->context; }

/* Writes a log line, outside of a request. */
inline void log(std::uint32_t level, std::string_view message) {
    decurion_the_host->log(nullptr, level, bytes("cpp"), bytes(message));
}

using Headers = std::vector<std::pair<std::string, std::string>>;

namespace detail {

inline std::vector<decurion_header> lend(const Headers &headers) {
    std::vector<decurion_header> lent;
    lent.reserve(headers.size());
    for (const auto &[name, value] : headers) {
        decurion_header header;
        header.name = bytes(name);
        header.value = bytes(value);
        lent.push_back(header);
    }
    return lent;
}

} // namespace detail

/* A whole answer. */
struct Response {
    std::uint32_t status = 200;
    Headers headers;
    std::string body;

    Response() = default;
    Response(std::string text) : headers{{"content-type", "text/plain; charset=utf-8"}}, body(std::move(text)) {}
    Response(const char *text) : Response(std::string(text)) {}
    Response(std::uint32_t code, std::string text) : Response(std::move(text)) { status = code; }

    /* JSON that was written already. */
    static Response json(std::string text, std::uint32_t code = 200) {
        Response response;
        response.status = code;
        response.headers = {{"content-type", "application/json"}};
        response.body = std::move(text);
        return response;
    }
};

class Stream;

/* A request or call that is being answered. It lives for the handler's time. */
class Request {
  public:
    explicit Request(decurion_exchange *exchange) : exchange_(exchange), request_(decurion_request_of(exchange)) {}
    Request(const Request &) = delete;
    Request &operator=(const Request &) = delete;

    std::string_view id() const { return view(request_->id); }
    std::string_view method() const { return view(request_->method); }
    /* Whole, percent-encoding kept, without the query. */
    std::string_view path() const { return view(request_->path); }
    std::string_view route_prefix() const { return view(request_->route_prefix); }
    /* What follows the prefix. */
    std::string_view sub_path() const { return path().substr(route_prefix().size()); }
    std::string_view query() const { return view(request_->query); }
    std::string_view traceparent() const { return view(request_->traceparent); }
    std::string_view model_id() const { return view(request_->model_id); }
    /* CLOCK_MONOTONIC in nanoseconds; 0: none. */
    std::uint64_t deadline_ns() const { return request_->deadline_ns; }
    bool is_cancelled() const { return decurion_the_host->is_cancelled(exchange_) == 1; }

    /* The first field of this name, which is to be lower case. */
    std::optional<std::string_view> header(std::string_view name) const {
        for (std::size_t index = 0; index < request_->header_count; ++index) {
            if (view(request_->headers[index].name) == name) {
                return view(request_->headers[index].value);
            }
        }
        return std::nullopt;
    }

    /* Reads body bytes as they come; 0 at the end. Throws Cancelled, or Error where the client cut it off. */
    std::size_t read(void *buffer, std::size_t len) {
        std::ptrdiff_t got = decurion_the_host->body_read(exchange_, buffer, len, nullptr);
        if (got < 0) {
            detail::raise(got, "the body was read");
        }
        return static_cast<std::size_t>(got);
    }

    /* The whole body. */
    std::string body() {
        std::string whole;
        char part[16 * 1024];
        while (std::size_t got = read(part, sizeof part)) {
            whole.append(part, got);
        }
        return whole;
    }

    /* Starts a streamed answer in place of a Response. */
    Stream stream(std::uint32_t status = 200, const Headers &headers = {});

    /* Writes a log line with this request's id. */
    void log(std::uint32_t level, std::string_view message) const {
        decurion_the_host->log(exchange_, level, bytes("cpp"), bytes(message));
    }

    /* For the C functions. */
    decurion_exchange *exchange() const { return exchange_; }

  private:
    friend class Stream;
    decurion_exchange *exchange_;
    const decurion_request *request_;
};

/* An answer whose body is written piece by piece. It ends when it goes; after an exception it is cut off instead. */
class Stream {
  public:
    Stream(Stream &&other) noexcept
        : exchange_(std::exchange(other.exchange_, nullptr)), exceptions_(other.exceptions_) {}
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;
    Stream &operator=(Stream &&) = delete;
    ~Stream() {
        if (exchange_ != nullptr && std::uncaught_exceptions() == exceptions_) {
            decurion_the_host->finish(exchange_);
        }
    }

    /* Waits for room. Throws Cancelled where the client has left. */
    void write(std::string_view text) {
        while (!text.empty()) {
            std::ptrdiff_t taken = decurion_the_host->respond_write(exchange_, bytes(text), nullptr);
            if (taken < 0) {
                detail::raise(taken, "the answer was written");
            }
            text.remove_prefix(static_cast<std::size_t>(taken));
        }
    }

    /* Sends what was written on its way. */
    void flush() {
        if (std::int32_t status = decurion_the_host->respond_flush(exchange_); status != DECURION_OK) {
            detail::raise(status, "the answer was flushed");
        }
    }

    /* One server-sent event, on its way at once. */
    void event(std::string_view data) {
        std::string text;
        for (std::size_t start = 0; start <= data.size();) {
            std::size_t end = data.find('\n', start);
            end = end == std::string_view::npos ? data.size() : end;
            text.append("data: ").append(data.substr(start, end - start)).append("\n");
            start = end + 1;
        }
        write(text.append("\n"));
        flush();
    }

  private:
    friend class Request;
    Stream(decurion_exchange *exchange) : exchange_(exchange), exceptions_(std::uncaught_exceptions()) {}
    decurion_exchange *exchange_;
    int exceptions_;
};

inline Stream Request::stream(std::uint32_t status, const Headers &headers) {
    std::vector<decurion_header> lent = detail::lend(headers);
    std::int32_t started =
        decurion_the_host->respond_start(exchange_, status, lent.data(), lent.size(), UINT64_MAX);
    if (started != DECURION_OK) {
        detail::raise(started, "the answer was begun");
    }
    return Stream(exchange_);
}

/* A call under way. It is cancelled where it goes without having been waited for. */
class Call {
  public:
    Call(Call &&other) noexcept : call_(std::exchange(other.call_, nullptr)), what_(std::move(other.what_)) {}
    Call(const Call &) = delete;
    Call &operator=(const Call &) = delete;
    Call &operator=(Call &&) = delete;
    ~Call() {
        if (call_ != nullptr) {
            decurion_the_host->call_free(call_);
        }
    }

    /* Waits for the result, as JSON (of a request: the body). The callee's own error keeps its status. */
    std::string wait() {
        decurion_call_reply reply = {};
        reply.size = sizeof reply;
        std::int32_t status = decurion_the_host->call_wait(call_, &reply, nullptr);
        if (status != DECURION_OK) {
            detail::raise(status, what_);
        }
        std::string body(view(reply.body));
        if (reply.status >= 400) {
            throw Error(reply.status == 500 ? 0 : reply.status, body);
        }
        return body;
    }

    /* Tells the callee that nobody waits. */
    void cancel() { decurion_the_host->call_cancel(call_); }

  private:
    friend class Handle;
    Call(decurion_call *call, std::string what) : call_(call), what_(std::move(what)) {}
    decurion_call *call_;
    std::string what_;
};

/* The way to call another deployment. What a handler calls is done on behalf of its request: pass it along. */
class Handle {
  public:
    explicit Handle(std::string_view deployment) : deployment_(deployment) {
        if (!deployment_.empty() && deployment_.front() == '@') {
            deployment_.erase(0, 1);
        }
    }

    /* Calls a method; arguments and result are JSON. */
    std::string call(std::string_view method, std::string_view args, const Request *parent = nullptr) const {
        return start(method, args, parent).wait();
    }

    /* Starts a call; several can be under way at once. */
    Call start(std::string_view method, std::string_view args, const Request *parent = nullptr) const {
        return begin(DECURION_KIND_CALL, method, "", DECURION_ENCODING_JSON, args, parent);
    }

    /* Sends an HTTP request to the deployment's `call`. */
    Call request(std::string_view method, std::string_view target, std::string_view body,
                 const Request *parent = nullptr) const {
        return begin(DECURION_KIND_HTTP, method, target, DECURION_ENCODING_RAW, body, parent);
    }

  private:
    Call begin(std::uint32_t kind, std::string_view method, std::string_view target, std::uint32_t encoding,
               std::string_view body, const Request *parent) const {
        std::string what = "calling " + deployment_ + "." + std::string(method);
        decurion_call_spec spec = {};
        spec.size = sizeof spec;
        spec.kind = kind;
        spec.deployment = bytes(deployment_);
        spec.method = bytes(method);
        spec.target = bytes(target);
        spec.encoding = encoding;
        spec.body = bytes(body);
        spec.parent = parent != nullptr ? parent->exchange() : nullptr;
        decurion_call *call = nullptr;
        std::int32_t status = decurion_the_host->call_start(&spec, &call);
        if (status != DECURION_OK) {
            detail::raise(status, what);
        }
        return Call(call, std::move(what));
    }

    std::string deployment_;
};

namespace detail {

template <class T, class = void> struct answers_http : std::false_type {};
template <class T>
struct answers_http<T, std::void_t<decltype(std::declval<T &>().call(std::declval<Request &>()))>> : std::true_type {};
template <class T, class = void> struct reconfigures : std::false_type {};
template <class T>
struct reconfigures<T, std::void_t<decltype(std::declval<T &>().reconfigure(std::string_view()))>> : std::true_type {};
template <class T, class = void> struct checks_health : std::false_type {};
template <class T> struct checks_health<T, std::void_t<decltype(std::declval<T &>().check_health())>> : std::true_type {};

/* Runs what may throw, for an entry with an error slot. */
template <class F> std::int32_t guarded(decurion_error_slot *error, F &&run) noexcept {
    try {
        run();
        return DECURION_OK;
    } catch (const Error &failed) {
        decurion_the_host->set_error(error, failed.code(), bytes(failed.what()));
    } catch (const std::exception &failed) {
        decurion_the_host->set_error(error, 0, bytes(failed.what()));
    } catch (...) {
        decurion_the_host->set_error(error, 0, bytes("an exception that is no std::exception"));
    }
    return DECURION_ERROR;
}

/* Runs what may throw, for an entry with an exchange. */
template <class F> std::int32_t answered(decurion_exchange *exchange, F &&run) noexcept {
    try {
        run();
    } catch (const Error &failed) {
        const bool chosen = failed.code() != 0;
        const decurion_bytes text = bytes(failed.what());
        decurion_the_host->fail(exchange, failed.code(), chosen ? text : bytes(""), chosen ? bytes("") : text);
    } catch (const std::exception &failed) {
        decurion_the_host->fail(exchange, 0, bytes(""), bytes(failed.what()));
    } catch (...) {
        decurion_the_host->fail(exchange, 0, bytes(""), bytes("an exception that is no std::exception"));
    }
    return DECURION_OK;
}

template <class T> std::int32_t create(decurion_bytes args, void **instance, decurion_error_slot *error) noexcept {
    return guarded(error, [&] {
        if constexpr (std::is_constructible_v<T, std::string_view>) {
            *instance = new T(view(args));
        } else {
            if (const std::string_view given = view(args); !given.empty() && given != "null") {
                throw Error("takes no arguments");
            }
            *instance = new T();
        }
    });
}

template <class T> std::int32_t call(void *instance, decurion_exchange *exchange) noexcept {
    return answered(exchange, [&] {
        if constexpr (answers_http<T>::value) {
            Request request(exchange);
            if constexpr (std::is_void_v<decltype(std::declval<T &>().call(request))>) {
                static_cast<T *>(instance)->call(request);
            } else {
                const Response response = static_cast<T *>(instance)->call(request);
                const std::vector<decurion_header> headers = lend(response.headers);
                const std::int32_t status = decurion_the_host->respond(exchange, response.status, headers.data(),
                                                                       headers.size(), bytes(response.body));
                if (status == DECURION_INVALID) {
                    throw Error("the answer has a status or a header field that HTTP does not allow");
                }
            }
        }
    });
}

template <class T> std::int32_t reconfigure(void *instance, decurion_bytes config, decurion_error_slot *error) noexcept {
    return guarded(error, [&] {
        if constexpr (reconfigures<T>::value) {
            static_cast<T *>(instance)->reconfigure(view(config));
        }
    });
}

template <class T> std::int32_t check_health(void *instance, decurion_error_slot *error) noexcept {
    return guarded(error, [&] {
        if constexpr (checks_health<T>::value) {
            static_cast<T *>(instance)->check_health();
        }
    });
}

/* A method takes its arguments as JSON, or the request, and gives JSON. */
template <class T, class M> std::int32_t invoke(void *instance, decurion_exchange *exchange, M method) noexcept {
    return answered(exchange, [&] {
        Request request(exchange);
        T &object = *static_cast<T *>(instance);
        std::string result;
        if constexpr (std::is_invocable_v<M, T &, Request &>) {
            result = (object.*method)(request);
        } else {
            const std::string args = request.body();
            result = (object.*method)(std::string_view(args));
        }
        if (decurion_the_host->respond_call(exchange, DECURION_ENCODING_JSON, bytes(result)) == DECURION_INVALID) {
            throw Error("the host refused the result");
        }
    });
}

} // namespace detail
} // namespace decurion

/*
 * DECURION_CPP_CLASS(NAME, CALL, RECONFIGURE, CHECK_HEALTH, METHODS): exports a class as DECURION_CLASS does. NAME is a
 * type in the global namespace that is made from std::string_view or from nothing; CALL, RECONFIGURE and CHECK_HEALTH
 * say which of its members of these names are there, and whether they run alone. A `call` that streams gives void.
 */
#define DECURION_CPP_CLASS(NAME, CALL, RECONFIGURE, CHECK_HEALTH, METHODS)                                             \
    [[maybe_unused]] static int32_t NAME##_create(decurion_bytes args, void **instance, decurion_error_slot *error) {  \
        return decurion::detail::create<NAME>(args, instance, error);                                                  \
    }                                                                                                                  \
    [[maybe_unused]] static void NAME##_destroy(void *instance) { delete static_cast<NAME *>(instance); }              \
    [[maybe_unused]] static int32_t NAME##_call(void *instance, decurion_exchange *exchange) {                         \
        return decurion::detail::call<NAME>(instance, exchange);                                                       \
    }                                                                                                                  \
    [[maybe_unused]] static int32_t NAME##_reconfigure(void *instance, decurion_bytes config,                          \
                                                       decurion_error_slot *error) {                                   \
        return decurion::detail::reconfigure<NAME>(instance, config, error);                                           \
    }                                                                                                                  \
    [[maybe_unused]] static int32_t NAME##_check_health(void *instance, decurion_error_slot *error) {                  \
        return decurion::detail::check_health<NAME>(instance, error);                                                  \
    }                                                                                                                  \
    METHODS(DECURION_CPP_METHOD, DECURION_CPP_METHOD)                                                                  \
    DECURION_CLASS(NAME, CALL, RECONFIGURE, CHECK_HEALTH, METHODS)

#define DECURION_CPP_METHOD(NAME, METHOD, HOW, ARGUMENTS, RETURNS)                                                     \
    static int32_t NAME##_##METHOD(void *instance, decurion_exchange *exchange) {                                      \
        return decurion::detail::invoke<NAME>(instance, exchange, &NAME::METHOD);                                      \
    }

#endif
