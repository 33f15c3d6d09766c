// Hello world in C++.
#include "decurion.hpp"

struct hello_cpp {
    decurion::Response call(decurion::Request &) const { return "Hello world from C++!"; }
};

DECURION_CPP_CLASS(hello_cpp, SHARED, NONE, NONE, DECURION_NO_METHODS)
