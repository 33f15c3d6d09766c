// A model in C++ with everything a class can have: it says whether a number is above a threshold, streams a countdown,
// and asks another deployment.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "decurion.hpp"

// The first number in some JSON: enough for [0.7] and {"threshold":0.7}. A real model takes a JSON library.
static double number_in(std::string_view json, const char *what) {
    const std::size_t digit = json.find_first_of("-0123456789");
    if (digit == std::string_view::npos) {
        throw decurion::Error(400, std::string(what) + " is missing");
    }
    return std::strtod(std::string(json.substr(digit)).c_str(), nullptr);
}

class Model {
  public:
    explicit Model(std::string_view args) : threshold_(number_in(args, "argument 'threshold' of Model")) {}

    void call(decurion::Request &request) {
        if (request.sub_path() == "/countdown") {
            auto out = request.stream(200, {{"content-type", "text/event-stream"}});
            for (int left = 3; left > 0; --left) {
                out.event(std::to_string(left));
            }
            return;
        }
        if (request.sub_path() == "/bug") {
            throw std::runtime_error("a secret of the model");
        }
        const double number = number_in(request.body(), "a number");
        auto out = request.stream(200, {{"content-type", "text/plain"}});
        out.write(number > threshold_ ? "above" : "below");
    }

    std::string predict(std::string_view args) const {
        return number_in(args, "a number") > threshold_ ? "true" : "false";
    }

    std::string learn(std::string_view) {
        decurion::count("learned"); // shown by `decurion metrics` as learned_total
        return std::to_string(++learned_);
    }

    // Asks another deployment's method of the same name.
    std::string ask(decurion::Request &request) const {
        const decurion::Handle other("other");
        decurion::Call one = other.start("predict", request.body(), &request);
        decurion::Call two = other.start("predict", "[0.1]", &request);
        return "[" + one.wait() + "," + two.wait() + "]";
    }

    void reconfigure(std::string_view config) { threshold_ = number_in(config, "threshold in user_config"); }

    void check_health() const {
        if (learned_ >= 3) {
            throw decurion::Error("learned too much");
        }
    }

  private:
    double threshold_;
    std::atomic<unsigned> learned_{0};
};

#define MODEL_METHODS(FIRST, NEXT)                                                                                     \
    FIRST(Model, predict, SHARED, "\"number\"", "bool")                                                                \
    NEXT(Model, learn, SHARED, "", "number")                                                                           \
    NEXT(Model, ask, SHARED, "\"number\"", "[bool]")

DECURION_CPP_CLASS(Model, SHARED, EXCLUSIVE, SHARED, MODEL_METHODS)
