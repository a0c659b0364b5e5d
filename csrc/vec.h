// The vector of floats of the ISA this unit is compiled for, by the compilers' vector extensions, and the
// functions that the gates need.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define RECURRA_INLINE __attribute__((always_inline)) inline
#define RECURRA_NOINLINE __attribute__((noinline))
#define RECURRA_UNROLL _Pragma("GCC unroll 32")

namespace recurra::RECURRA_ISA {
namespace {

using i64 = int64_t;

constexpr int lanes = RECURRA_LANES;  // floats in a vector
#ifdef RECURRA_PAIRS
constexpr bool pairs = true;  // this unit reads bfloat16: see problem.h
#else
constexpr bool pairs = false;
#endif
// Whether there are 32 vector registers, enough for a tile of 6 × 4 sums; otherwise there are 16, for 3 × 4.
constexpr bool many_registers = RECURRA_REGISTERS == 32;

typedef float V __attribute__((vector_size(lanes * 4)));
typedef float Unaligned __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(lanes * 4)));

constexpr i64 smaller(i64 a, i64 b) { return a < b ? a : b; }
constexpr i64 larger(i64 a, i64 b) { return a > b ? a : b; }
constexpr i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
constexpr i64 round_up(i64 a, i64 b) { return ceil_div(a, b) * b; }

RECURRA_INLINE V load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
RECURRA_INLINE void store(float* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }

// x in every lane. Not V{} + x, which is not x for a negative zero and so costs an addition.
RECURRA_INLINE V broadcast(float x) { return x - V{}; }

// The first n lanes, 0 <= n <= lanes; zeros in the others. Nothing beyond p + n is touched.
RECURRA_INLINE V load(const float* p, i64 n) {
    if (__builtin_expect(n == lanes, 1)) return load(p);
#if RECURRA_LANES == 16
    return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    float whole[lanes] = {};
    for (i64 i = 0; i < n; i++) whole[i] = p[i];
    return load(whole);
#endif
}

RECURRA_INLINE void store(float* p, V v, i64 n) {
    if (__builtin_expect(n == lanes, 1)) return store(p, v);
#if RECURRA_LANES == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    float whole[lanes];
    store(whole, v);
    for (i64 i = 0; i < n; i++) p[i] = whole[i];
#endif
}

// v, rounded to a float here: the compiler may not fuse its last product into what follows. It would do so in
// one place and not in another, and the same step would differ by a bit.
RECURRA_INLINE V rounded(V v) {
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

// Of two bfloat16 in a unit of pairs, of one float elsewhere: the caller's numbers in a word of four bytes.
// Words travel as floats that nobody computes with. Sizes are even in a unit of pairs.
constexpr i64 per_word = pairs ? 2 : 1;
constexpr i64 words(i64 numbers) { return numbers / per_word; }

#ifdef RECURRA_PAIRS
typedef uint16_t Element;

RECURRA_INLINE V broadcast_word(float word) { return (V)_mm512_set1_ps(word); }

// sum + the products of the pairs' first numbers and of their second ones, added in float.
RECURRA_INLINE V multiply_add(V sum, V a, V b) {
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// Numbers first..first + n of those that p points to, as floats; zeros in the other lanes.
RECURRA_INLINE V load_numbers(const float* p, i64 first, i64 n) {
    const __mmask16 some = (__mmask16)((1u << n) - 1);
    const __m256i bits = _mm256_maskz_loadu_epi16(some, (const Element*)p + first);
    return (V)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}
RECURRA_INLINE void store_numbers(float* p, i64 first, V v, i64 n) {
    const __mmask16 some = (__mmask16)((1u << n) - 1);
    _mm256_mask_storeu_epi16((Element*)p + first, some, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#else
typedef float Element;

RECURRA_INLINE V broadcast_word(float word) { return broadcast(word); }
RECURRA_INLINE V multiply_add(V sum, V a, V b) { return sum + a * b; }
RECURRA_INLINE V load_numbers(const float* p, i64 first, i64 n) { return load(p + first, n); }
RECURRA_INLINE void store_numbers(float* p, i64 first, V v, i64 n) { store(p + first, v, n); }
#endif

// Clamped to low..high; a NaN stays a NaN, since comparisons with it are false.
RECURRA_INLINE V clamp(V x, float low, float high) {
    const V bottom = broadcast(low), top = broadcast(high);
    x = bottom > x ? bottom : x;
    return top < x ? top : x;
}

// 1 / d for a finite d above 1e-37. With AVX-512: 14 bits from the table, then one step of Newton.
RECURRA_INLINE V reciprocal(V d) {
#if RECURRA_LANES == 16
    const V r = (V)_mm512_maskz_rcp14_ps((__mmask16)-1, (__m512)d);
    return r * (2.0f - d * r);
#else
    return 1.0f / d;
#endif
}

// e^x within 1.3e-7 of it, relatively, for |x| <= 87, beyond which x is clamped: 2^n e^r with |r| <= ln 2 /
// 2, by the polynomial of Moshier's Cephes (expf).
RECURRA_INLINE V exp(V x) {
    x = clamp(x, -87.0f, 87.0f);
    const float round = 12582912.0f;  // 1.5 · 2²³: adding it leaves the nearest integer in the low bits
    const V shifted = x * 1.44269504088896341f + round;
    const V n = shifted - round;
    const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
    V p = broadcast(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    return (V)((Integers)p + ((Integers)shifted << 23));
}

RECURRA_INLINE V sigmoid(V x) { return rounded(reciprocal(1.0f + exp(-x))); }

// log σ(x) = min(x, 0) - log(1 + e) with e = exp(-|x|). The logarithm is 2 artanh(s) of s = e / (2 + e) <= 1
// / 3, by its series.
RECURRA_INLINE V log_sigmoid(V x) {
    const V e = exp(x > V{} ? -x : x), s = e / (2.0f + e), s2 = s * s;
    V p = broadcast(1.0f / 15.0f);
    p = p * s2 + 1.0f / 13.0f;
    p = p * s2 + 1.0f / 11.0f;
    p = p * s2 + 1.0f / 9.0f;
    p = p * s2 + 1.0f / 7.0f;
    p = p * s2 + 1.0f / 5.0f;
    p = p * s2 + 1.0f / 3.0f;
    p = p * s2 + 1.0f;
    return (x > V{} ? V{} : x) - 2.0f * s * p;
}

// tanh within 4e-7 of it, relatively: the rational function of degree 13 over 6 that Eigen uses (ptanh),
// clamped where it reaches 1 in float.
RECURRA_INLINE V tanh(V x) {
    x = clamp(x, -7.90531110763549805f, 7.90531110763549805f);
    const V x2 = x * x;
    V p = broadcast(-2.76076847742355e-16f);
    p = p * x2 + 2.00018790482477e-13f;
    p = p * x2 - 8.60467152213735e-11f;
    p = p * x2 + 5.12229709037114e-08f;
    p = p * x2 + 1.48572235717979e-05f;
    p = p * x2 + 6.37261928875436e-04f;
    p = p * x2 + 4.89352455891786e-03f;
    V q = broadcast(1.19825839466702e-06f);
    q = q * x2 + 1.18534705686654e-04f;
    q = q * x2 + 2.26843463243900e-03f;
    q = q * x2 + 4.89352518554385e-03f;
    return rounded((p * x) * reciprocal(q));
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define RECURRA_SHUFFLES 1
#endif
#endif

#ifdef RECURRA_SHUFFLES
template <int...>
struct Lanes {};
template <int n, int... rest>
struct CountLanes : CountLanes<n - 1, n - 1, rest...> {};
template <int... all>
struct CountLanes<0, all...> {
    using type = Lanes<all...>;
};

// Swaps the lanes with bit `half` of a with those without it of b: one stage of a transpose.
template <int half, int... lane>
RECURRA_INLINE void exchange(V& a, V& b, Lanes<lane...>) {
    const V low = __builtin_shufflevector(a, b, ((lane & half) ? lanes + lane - half : lane)...);
    b = __builtin_shufflevector(a, b, ((lane & half) ? lanes + lane : lane + half)...);
    a = low;
}

template <int half>
RECURRA_INLINE void transpose(V (&rows)[lanes]) {
    if constexpr (half > 0) {
        RECURRA_UNROLL
        for (int i = 0; i < lanes; i++)
            if (!(i & half)) exchange<half>(rows[i], rows[i | half], CountLanes<lanes>::type());
        transpose<half / 2>(rows);
    }
}
#endif

// to[k · to_stride + v] = from[v · from_stride + k] for k < count and v < rows; 0 for rows <= v < lanes.
RECURRA_INLINE void transpose_block(const float* from, i64 from_stride, i64 rows, i64 count, float* to,
                                    i64 to_stride) {
    i64 k = 0;
#ifdef RECURRA_SHUFFLES
    if (rows == lanes)
        for (; k + lanes <= count; k += lanes) {
            V block[lanes];
            RECURRA_UNROLL
            for (int v = 0; v < lanes; v++) block[v] = load(from + v * from_stride + k);
            transpose<lanes / 2>(block);
            RECURRA_UNROLL
            for (int j = 0; j < lanes; j++) store(to + (k + j) * to_stride, block[j]);
        }
#endif
    for (; k < count; k++)
        for (i64 v = 0; v < lanes; v++) to[k * to_stride + v] = v < rows ? from[v * from_stride + k] : 0.0f;
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
