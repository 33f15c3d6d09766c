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

#include <chrono>
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

/* Whether the host's table reaches up to and with this function. */
#define DECURION_HOST_HAS(FIELD)                                                                                       \
    (decurion_the_host->size >= offsetof(decurion_host, FIELD) + sizeof decurion_the_host->FIELD)

/* CLOCK_MONOTONIC, the clock of all deadlines, in nanoseconds. */
inline std::uint64_t now_ns() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

/* What the host said of what it refused last on this thread; empty: nothing. */
inline std::string refusal_words() {
    std::string words;
    if (DECURION_HOST_HAS(refusal_words)) {
        decurion_the_host->refusal_words(
            &words, [](void *data, decurion_bytes said) { static_cast<std::string *>(data)->assign(view(said)); });
    }
    return words;
}

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
        if (std::string words = refusal_words(); !words.empty()) {
            throw Error(words);
        }
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

/* Metrics: shown with the supervisor's own, labelled with application, deployment and replica. What is not taken, a name
 * that is none or one series too many, is said in the replica's log; nothing is thrown for it. */
inline void measure(std::uint32_t kind, std::string_view name, double value, const Headers &labels = {}) {
    if (DECURION_HOST_HAS(metric)) {
        const std::vector<decurion_header> lent = detail::lend(labels);
        decurion_the_host->metric(kind, bytes(name), lent.data(), lent.size(), value);
    }
}

/* Adds to a counter, which is shown as NAME_total. */
inline void count(std::string_view name, double more = 1, const Headers &labels = {}) {
    measure(DECURION_METRIC_COUNTER, name, more, labels);
}

/* Sets a gauge. */
inline void set_gauge(std::string_view name, double value, const Headers &labels = {}) {
    measure(DECURION_METRIC_GAUGE, name, value, labels);
}

/* Records into a histogram; one whose name ends in _seconds has the buckets of durations. */
inline void record(std::string_view name, double value, const Headers &labels = {}) {
    measure(DECURION_METRIC_HISTOGRAM, name, value, labels);
}

/* Says which models this replica holds, in place of what was said before: requests for them come here. */
inline void hold_models(const std::vector<std::string> &ids) {
    if (DECURION_HOST_HAS(models_hold)) {
        std::vector<decurion_bytes> lent;
        lent.reserve(ids.size());
        for (const std::string &id : ids) {
            lent.push_back(bytes(id));
        }
        decurion_the_host->models_hold(lent.data(), lent.size());
    }
}

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
    /* Bytes of the body, where the client has said so. */
    std::optional<std::uint64_t> content_length() const {
        return request_->content_length == UINT64_MAX ? std::nullopt : std::optional(request_->content_length);
    }
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
    Call(Call &&other) noexcept
        : call_(std::exchange(other.call_, nullptr)), what_(std::move(other.what_)), due_ns_(other.due_ns_) {}
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
        /* Both sides have a clock, and the callee's may be the first to be looked at. */
        if (reply.status == 499 && due_ns_ != 0 && detail::now_ns() >= due_ns_) {
            detail::raise(DECURION_DEADLINE, what_);
        }
        if (reply.status >= 400) {
            throw Error(reply.status == 500 ? 0 : reply.status, body);
        }
        return body;
    }

    /* Waits for the head alone: its status. The body is then read as it comes, in place of `wait`. */
    std::uint32_t head() {
        decurion_call_reply reply = {};
        reply.size = sizeof reply;
        std::int32_t status = DECURION_HOST_HAS(call_head) ? decurion_the_host->call_head(call_, &reply, nullptr)
                                                           : static_cast<std::int32_t>(DECURION_INVALID);
        if (status != DECURION_OK) {
            detail::raise(status, what_);
        }
        return reply.status;
    }

    /* Reads from the answer's body as it comes: how much, 0 at the end. */
    std::size_t read(void *buffer, std::size_t len) {
        std::ptrdiff_t got = decurion_the_host->call_read(call_, buffer, len, nullptr);
        if (got < 0) {
            detail::raise(got, what_);
        }
        return static_cast<std::size_t>(got);
    }

    /* Tells the callee that nobody waits. */
    void cancel() { decurion_the_host->call_cancel(call_); }

  private:
    friend class Handle;
    Call(decurion_call *call, std::string what, std::uint64_t due_ns)
        : call_(call), what_(std::move(what)), due_ns_(due_ns) {}
    decurion_call *call_;
    std::string what_;
    std::uint64_t due_ns_;
};

/* The items of a streaming method, each as JSON, as they come. Where it goes before its end, the method is told. */
class Items {
  public:
    /* The next item; nothing at the end. Throws where the method fails, with the status that it chose. */
    std::optional<std::string> next() {
        char head[HEAD];
        if (!fill(head, HEAD, true)) {
            return std::nullopt;
        }
        std::size_t len = 0;
        for (int byte = 3; byte >= 0; --byte) {
            len = len << 8 | static_cast<unsigned char>(head[byte]);
        }
        std::string item;
        /* As it comes: what is announced need not be true. */
        char part[16 * 1024];
        while (item.size() < len) {
            const std::size_t want = len - item.size() < sizeof part ? len - item.size() : sizeof part;
            fill(part, want, false);
            item.append(part, want);
        }
        if (static_cast<unsigned char>(head[4]) == FAILED && len >= 2) {
            const unsigned low = static_cast<unsigned char>(item[0]);
            const unsigned high = static_cast<unsigned char>(item[1]);
            throw Error(low | high << 8, item.substr(2));
        }
        return item;
    }

  private:
    friend class Handle;
    static constexpr std::size_t HEAD = 5;
    static constexpr unsigned FAILED = 255;
    explicit Items(Call call) : call_(std::move(call)) {}

    /* Reads so much. False: the stream is over, where it may be. */
    bool fill(char *into, std::size_t len, bool may_end) {
        std::size_t filled = 0;
        while (filled < len) {
            const std::size_t got = call_.read(into + filled, len - filled);
            if (got == 0) {
                if (may_end && filled == 0) {
                    return false;
                }
                throw Error("a stream was cut off");
            }
            filled += got;
        }
        return true;
    }

    Call call_;
};

/* The way to call another deployment. What a handler calls is done on behalf of its request: pass it along. */
class Handle {
  public:
    explicit Handle(std::string_view deployment) : deployment_(deployment) {
        if (!deployment_.empty() && deployment_.front() == '@') {
            deployment_.erase(0, 1);
        }
    }

    /* The same handle, whose calls ask for a model: replicas that hold it are preferred. */
    Handle with_model_id(std::string_view id) const {
        Handle other = *this;
        other.model_id_ = id;
        return other;
    }

    /* The same handle, whose calls go to this one replica. */
    Handle on_replica(std::string_view id) const {
        Handle other = *this;
        other.replica_ = id;
        return other;
    }

    /* The same handle, whose calls have to be answered by then: CLOCK_MONOTONIC in nanoseconds. */
    Handle with_deadline_ns(std::uint64_t deadline) const {
        Handle other = *this;
        other.deadline_ns_ = deadline;
        return other;
    }

    /* Ids of the replicas that take calls now. Throws where there is no such deployment. */
    std::vector<std::string> replicas() const {
        std::vector<std::string> ids;
        const std::int32_t status =
            DECURION_HOST_HAS(deployment_replicas)
                ? decurion_the_host->deployment_replicas(bytes(deployment_), &ids,
                                                         [](void *data, decurion_bytes id) {
                                                             static_cast<std::vector<std::string> *>(data)->emplace_back(
                                                                 view(id));
                                                         })
                : static_cast<std::int32_t>(DECURION_INVALID);
        if (status != DECURION_OK) {
            detail::raise(status, "asking for the replicas of " + deployment_);
        }
        return ids;
    }

    /* Calls a method that streams: its items, as JSON. Throws what it fails with before its first item. */
    Items stream(std::string_view method, std::string_view args, const Request *parent = nullptr) const {
        Call call = begin(DECURION_KIND_CALL, method, "", DECURION_ENCODING_JSON, args, parent, true);
        if (const std::uint32_t status = call.head(); status != 200) {
            std::string text;
            char part[4096];
            while (std::size_t got = call.read(part, sizeof part)) {
                text.append(part, got);
            }
            throw Error(status == 500 ? 0 : status, text);
        }
        return Items(std::move(call));
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
               std::string_view body, const Request *parent, bool streams = false) const {
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
        spec.deadline_ns = deadline_ns_;
        spec.model_id = bytes(model_id_);
        spec.replica = bytes(replica_);
        decurion_header wants_items;
        wants_items.name = bytes("decurion-stream");
        wants_items.value = bytes("");
        spec.headers = streams ? &wants_items : nullptr;
        spec.header_count = streams ? 1 : 0;
        decurion_call *call = nullptr;
        std::int32_t status = decurion_the_host->call_start(&spec, &call);
        if (status != DECURION_OK) {
            detail::raise(status, what);
        }
        std::uint64_t due_ns = deadline_ns_;
        if (const std::uint64_t of_parent = parent != nullptr ? parent->deadline_ns() : 0;
            of_parent != 0 && (due_ns == 0 || of_parent < due_ns)) {
            due_ns = of_parent;
        }
        return Call(call, std::move(what), due_ns);
    }

    std::string deployment_;
    std::string model_id_;
    std::string replica_;
    std::uint64_t deadline_ns_ = 0;
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

#undef DECURION_HOST_HAS

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
