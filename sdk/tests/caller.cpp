// What decurion.hpp has for calling others and for measuring, each once. Tests call its methods.
#include <string>

#include "decurion.hpp"

class Caller {
  public:
    // Items of a stream, and how it ended.
    std::string items(decurion::Request &request) const {
        std::string all;
        decurion::Items items = decurion::Handle("@partner").stream("count", request.body(), &request);
        try {
            while (auto item = items.next()) {
                all += *item + ";";
            }
        } catch (const decurion::Error &error) {
            all += std::to_string(error.code()) + " " + error.what();
        }
        return "\"" + all + "\"";
    }

    // What goes wrong before the first item.
    std::string no_items(decurion::Request &request) const {
        try {
            decurion::Handle("partner").stream("double", "[1]", &request);
        } catch (const decurion::Error &error) {
            return std::to_string(error.code());
        }
        return "0";
    }

    // A part of an answer, before the whole is there.
    std::string head(decurion::Request &request) const {
        decurion::Call call = decurion::Handle("partner").request("GET", "/", "", &request);
        const unsigned status = call.head();
        char part[2];
        const std::size_t got = call.read(part, sizeof part);
        return "\"" + std::to_string(status) + " " + std::string(part, got) + "\"";
    }

    std::string everywhere(decurion::Request &request) const {
        const decurion::Handle partner("partner");
        std::string all;
        for (const std::string &replica : partner.replicas()) {
            all += replica + "=" + partner.on_replica(replica).call("double", "[4]", &request) + ";";
        }
        return "\"" + all + "\"";
    }

    std::string model(decurion::Request &request) const {
        return decurion::Handle("partner").with_model_id("m-1").call("model", "[]", &request);
    }

    std::string late(decurion::Request &request) const {
        try {
            return decurion::Handle("partner").with_deadline_ns(1).call("wait", "[]", &request);
        } catch (const decurion::Error &error) {
            return std::to_string(error.code());
        }
    }

    std::string nobody(decurion::Request &request) const {
        try {
            return decurion::Handle("nobody").call("double", "[1]", &request);
        } catch (const decurion::Error &error) {
            return "\"" + std::string(error.what()) + "\"";
        }
    }

    std::string measure(decurion::Request &) const {
        decurion::count("rows", 2);
        decurion::count("rows", 3, {{"kind", "good"}});
        decurion::set_gauge("level", -1.5);
        decurion::record("size", 4);
        decurion::hold_models({"a", "b"});
        return "true";
    }
};

#define CALLER_METHODS(FIRST, NEXT)                                                                                    \
    FIRST(Caller, items, SHARED, "\"number\",\"number\"", "string")                                                    \
    NEXT(Caller, no_items, SHARED, "", "number")                                                                       \
    NEXT(Caller, head, SHARED, "", "string")                                                                           \
    NEXT(Caller, everywhere, SHARED, "", "string")                                                                     \
    NEXT(Caller, model, SHARED, "", "string")                                                                          \
    NEXT(Caller, late, SHARED, "", "number")                                                                           \
    NEXT(Caller, nobody, SHARED, "", "string")                                                                         \
    NEXT(Caller, measure, SHARED, "", "bool")
DECURION_CPP_CLASS(Caller, NONE, NONE, NONE, CALLER_METHODS)
