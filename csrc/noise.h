// Zoneout (Krueger et al. 2017) and recurrent dropout (Gal & Ghahramani 2016). Random numbers come from a
// counter (Philox4x32 with 7 rounds: Salmon et al. 2011): what is drawn for a unit, a time, a row and a
// direction is the same whatever the threads and the ISA, and backward draws it once more instead of keeping
// it.
#pragma once

#include "problem.h"
#include "vec.h"

namespace recurra::RECURRA_ISA {
namespace {

typedef uint32_t Bits __attribute__((vector_size(lanes * 4)));
typedef uint64_t WideBits __attribute__((vector_size(lanes * 4)));  // half as many

// The products of the even lanes, 32 bits each, of a and b.
RECURRA_INLINE WideBits multiply_even(WideBits a, WideBits b) {
#if RECURRA_LANES == 16
    return (WideBits)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif RECURRA_LANES == 8
    return (WideBits)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (WideBits)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The high and low halves of a · by, lane by lane.
RECURRA_INLINE void multiply(Bits a, uint32_t by, Bits& high, Bits& low) {
    const WideBits factor = (WideBits)(Bits{} + by);
    const WideBits even = multiply_even((WideBits)a, factor), odd = multiply_even((WideBits)a >> 32, factor);
    constexpr uint64_t upper = 0xffffffff00000000u;
    low = (Bits)((even & ~upper) | (odd << 32));
    high = (Bits)((even >> 32) | (odd & upper));
}

struct Drawn {
    Bits word[4];
};

RECURRA_NOINLINE Drawn philox(uint64_t seed, uint32_t unit, uint32_t time, uint32_t row, uint32_t stream) {
    Bits c[4] = {Bits{} + unit, Bits{} + time, Bits{} + row, Bits{} + stream};
    for (uint32_t lane = 0; lane < lanes; lane++) c[0][lane] += lane;
    uint32_t k[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
    for (int round = 0; round < 7; round++) {
        Bits high[2], low[2];
        multiply(c[0], 0xD2511F53u, high[0], low[0]);
        multiply(c[2], 0xCD9E8D57u, high[1], low[1]);
        c[0] = high[1] ^ c[1] ^ k[0];
        c[1] = low[1];
        c[2] = high[0] ^ c[3] ^ k[1];
        c[3] = low[0];
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
}

// All ones in the lanes where a uniform number of 24 bits is below p.
RECURRA_INLINE Integers below(Bits word, float p) {
    const V u = __builtin_convertvector((Integers)(word >> 8), V) * 0x1p-24f;
    return (Integers)(u < broadcast(p));
}

constexpr uint32_t whole_sequence = 0xffffffffu;  // the time of a mask that is the same at all steps

// How much of a state stays: 1 or 0 where it is drawn, else its expectation.
struct Zone {
    bool drawn;
    Integers stays;  // all ones where the state of the step before stays
    float p;

    RECURRA_INLINE V blend(V before, V now) const {
        if (drawn) return stays ? before : now;  // not a product with 0, which would carry NaN across
        return p * before + (1.0f - p) * now;
    }
    // Parts of a gradient: what the step before gets, and what this step gets.
    RECURRA_INLINE V part_before(V d) const { return drawn ? (stays ? d : V{}) : p * d; }
    RECURRA_INLINE V part_now(V d) const { return drawn ? (stays ? V{} : d) : (1.0f - p) * d; }
};

// v times a factor of recurrent dropout; 0 where that is 0, whatever v is.
RECURRA_INLINE V dropped(V v, V factor) { return factor == V{} ? V{} : v * factor; }

// Draws for one row of one layer and direction.
struct Draws {
    const Noise& noise;
    uint32_t row, stream;

    RECURRA_INLINE Zone hidden(i64 time, i64 unit) const { return zone(time, unit, noise.zoneout_hidden, 0); }
    RECURRA_INLINE Zone cell(i64 time, i64 unit) const { return zone(time, unit, noise.zoneout_cell, 1); }
    RECURRA_INLINE Zone zone(i64 time, i64 unit, float p, int word) const {
        if (!noise.drawn) return {false, Integers{}, p};
        const auto t = static_cast<uint32_t>(time), u = static_cast<uint32_t>(unit);
        return {true, below(philox(noise.seed, u, t, row, stream).word[word], p), p};
    }
    // What the recurrent product reads of a hidden unit: 0, or 1 / (1 - p).
    RECURRA_INLINE V factor(i64 unit) const {
        const Drawn drawn = philox(noise.seed, static_cast<uint32_t>(unit), whole_sequence, row, stream);
        const V kept = broadcast(1.0f / (1.0f - noise.recurrent_dropout));
        return below(drawn.word[2], noise.recurrent_dropout) ? V{} : kept;
    }
};

}  // namespace
}  // namespace recurra::RECURRA_ISA
