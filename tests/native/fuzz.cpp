// Random problems through the engine without Python, for the sanitizers and for emulated CPUs.
//
//     fuzz [problems] [isa] [seed]
//
// isa: `all` that this CPU runs, the `best`, or one by name. Each problem is run with one thread and with two
// to four. Every result must be finite and the same bit for bit, with and without what backward needs, and
// nearly the same in each ISA. Prints a line for each ISA with a hash of all its results; exits with 1 at the
// first failure.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "dispatch.h"
#include "problem.h"

using namespace fuzz;

namespace {

[[noreturn]] void fail(const Shape& shape, const std::string& what) {
    throw std::runtime_error(shape.text() + ": " + what);
}

// The number of the first float in which they differ, or -1.
i64 difference(const Buffer& a, const Buffer& b) {
    if (a.count() && std::memcmp(a.data(), b.data(), a.count() * sizeof(float)) == 0) return -1;
    for (i64 i = 0; i < a.count(); i++)
        if (std::memcmp(a.data() + i, b.data() + i, sizeof(float)) != 0) return i;
    return -1;
}

void expect_finite(const Shape& shape, const std::string& who, const Results& results) {
    for (const auto& [name, buffer] : results)
        for (i64 i = 0; i < buffer.count(); i++)
            if (!std::isfinite(buffer.data()[i]))
                fail(shape, who + ": " + name + "[" + std::to_string(i) + "] is " +
                                std::to_string(buffer.data()[i]));
}

void expect_same(const Shape& shape, const std::string& what, const Buffer& a, const Buffer& b) {
    const i64 at = difference(a, b);
    if (at < 0) return;
    char text[96];
    std::snprintf(text, sizeof text, "[%lld] differs: %.9g and %.9g", static_cast<long long>(at),
                  static_cast<double>(a.data()[at]), static_cast<double>(b.data()[at]));
    fail(shape, what + text);
}

// The first three results are those of forward, the next three those of forward with what backward needs.
void expect_same_when_kept(const Shape& shape, const std::string& who, const Results& results) {
    for (int i = 0; i < 3; i++)
        expect_same(shape, who + ", kept and not: " + results[i].first, results[i].second,
                    results[i + 3].second);
}

bool gradient(const std::string& name) { return name.compare(0, 2, "d_") == 0; }

// Rounding differs between ISAs. A relu near its corner may then fall on the other side, and its gradient
// jump.
void expect_near(const Shape& shape, const std::string& who, const Results& a, const Results& b) {
    for (std::size_t i = 0; i < a.size(); i++) {
        if (shape.cell == recurra::RNN_RELU && gradient(a[i].first)) continue;
        float largest = 1e-3f, apart = 0;
        for (i64 k = 0; k < a[i].second.count(); k++) {
            largest = std::fmax(largest, std::fabs(a[i].second.data()[k]));
            apart = std::fmax(apart, std::fabs(a[i].second.data()[k] - b[i].second.data()[k]));
        }
        if (!(apart <= 1e-4f * largest))
            fail(shape, who + ": " + a[i].first + " is off by " + std::to_string(apart));
    }
}

// FNV-1a.
std::uint64_t hash(std::uint64_t before, const Results& results) {
    for (const auto& result : results) {
        const unsigned char* bytes = reinterpret_cast<const unsigned char*>(result.second.data());
        for (std::size_t i = 0; i < result.second.count() * sizeof(float); i++)
            before = (before ^ bytes[i]) * 0x100000001b3u;
    }
    return before;
}

std::vector<std::string> isas_of(const std::string& request) {
    const std::uint32_t features = recurra::cpu_features();
    if (request != "all") return {recurra::choose_isa(features, request == "best" ? "" : request)};
    std::vector<std::string> found;
    for (const recurra::Isa& isa : recurra::isas)
        if ((features & isa.needs) == isa.needs) found.emplace_back(isa.name);
    return found;
}

void check(const Inputs& inputs, const std::vector<std::string>& isas, i64 threads,
           std::vector<std::uint64_t>& hashes) {
    Results first;
    for (std::size_t i = 0; i < isas.size(); i++) {
        const recurra::Kernels& kernels = recurra::kernels_for(isas[i]);
        Results one = run(inputs, kernels, 1);
        for (auto& result : run_step(inputs, kernels)) one.push_back(std::move(result));
        const Results many = run(inputs, kernels, threads);
        const std::string who = isas[i] + ", " + std::to_string(threads) + " threads";
        expect_finite(inputs.shape, isas[i] + ", 1 thread", one);
        expect_finite(inputs.shape, who, many);
        for (std::size_t k = 0; k < many.size(); k++)
            expect_same(inputs.shape, who + " and one: " + one[k].first, one[k].second, many[k].second);
        expect_same_when_kept(inputs.shape, isas[i], one);
        hashes[i] = hash(hashes[i], one);
        if (i) expect_near(inputs.shape, isas[i] + " and " + isas[0], one, first);
        else first = std::move(one);
    }
}

}  // namespace

int main(int count, char** words) try {
    const i64 problems = count > 1 ? std::atoll(words[1]) : 1000;
    const std::vector<std::string> isas = isas_of(count > 2 ? words[2] : "all");
    const i64 seed = count > 3 ? std::atoll(words[3]) : 1;
    std::vector<std::uint64_t> hashes(isas.size(), 0xcbf29ce484222325u);
    for (i64 n = 0; n < problems; n++) {
        Random random(static_cast<std::uint64_t>(seed) << 32 | static_cast<std::uint64_t>(n));
        const Shape shape(random);
        const i64 threads = random.whole(2, 4);
        check(Inputs(shape, random), isas, threads, hashes);
    }
    for (std::size_t i = 0; i < isas.size(); i++)
        std::printf("%s: %lld problems, results %016llx\n", isas[i].c_str(), static_cast<long long>(problems),
                    static_cast<unsigned long long>(hashes[i]));
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s\n", error.what());
    return 1;
}
