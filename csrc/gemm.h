// Matrix products: a tile of sums held in registers, fed by rows of the left factor and packed panels of the
// right one. Each sum adds its terms in the same order whatever the tile's height, so how rows are shared out
// among threads never changes a bit of the result. Factors are in words (see vec.h), sums in floats.
#pragma once

#include "vec.h"

namespace recurra::RECURRA_ISA {
namespace {

constexpr int tile_rows = many_registers ? 6 : 3;
constexpr int ahead =
    8;  // terms that a panel is fetched ahead of its use, for caches whose own guess is late
constexpr int panel_vectors = 4;  // vectors in a panel of the general product

// The left factor's rows are `pieces` runs of `piece` words, `jump` words from one start to the next.
struct Runs {
    i64 pieces, piece, jump;
};

// Adds one term to each sum: acc[m][at(n)] += left[m][k] · w[n], where n runs over the vectors that slots
// from..to of each group of `slots` have.
template <int MR, int NB, int WIDTH, int SLOTS, int FROM, int TO>
RECURRA_INLINE void multiply(V (&acc)[MR][NB * WIDTH], const float* const (&left)[MR], i64 k, const float* w,
                             i64 block_stride) {
    constexpr int used = TO - FROM, n_used = WIDTH / SLOTS * used;
    if constexpr (many_registers) {
        V panel[NB][n_used];
        RECURRA_UNROLL
        for (int j = 0; j < NB; j++) {
            RECURRA_UNROLL
            for (int n = 0; n < n_used; n++) {
                panel[j][n] = load(w + j * block_stride + n * lanes);
                __builtin_prefetch(w + j * block_stride + (n + ahead * n_used) * lanes);
            }
        }
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) {
            const V factor = broadcast_word(left[m][k]);
            RECURRA_UNROLL
            for (int j = 0; j < NB; j++) {
                RECURRA_UNROLL
                for (int n = 0; n < n_used; n++) {
                    V& sum = acc[m][j * WIDTH + n / used * SLOTS + FROM + n % used];
                    sum = multiply_add(sum, factor, panel[j][n]);
                }
            }
        }
    } else {
        V factor[MR];
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) factor[m] = broadcast_word(left[m][k]);
        RECURRA_UNROLL
        for (int j = 0; j < NB; j++) {
            RECURRA_UNROLL
            for (int n = 0; n < n_used; n++) {
                V vector = load(w + j * block_stride + n * lanes);
#if defined(__x86_64__)
                __asm__("" : "+v"(vector));  // one at a time: else GCC loads all four and spills
#endif
                RECURRA_UNROLL
                for (int m = 0; m < MR; m++) {
                    V& sum = acc[m][j * WIDTH + n / used * SLOTS + FROM + n % used];
                    sum = multiply_add(sum, factor[m], vector);
                }
            }
        }
    }
}

// acc += rows · blocks, over all of the rows' runs.
template <int MR, int NB, int WIDTH, int SLOTS, int FROM, int TO>
RECURRA_INLINE void accumulate(V (&acc)[MR][NB * WIDTH], const float* const* rows, Runs runs, const float* w,
                               i64 block_stride) {
    constexpr int step = WIDTH / SLOTS * (TO - FROM) * lanes;
    const float* left[MR];
    RECURRA_UNROLL
    for (int m = 0; m < MR; m++) left[m] = rows[m];
    for (i64 piece = 0; piece < runs.pieces; piece++) {
        for (i64 k = 0; k < runs.piece; k++, w += step)
            multiply<MR, NB, WIDTH, SLOTS, FROM, TO>(acc, left, k, w, block_stride);
        RECURRA_UNROLL
        for (int m = 0; m < MR; m++) left[m] += runs.jump;
    }
}

// How many of the `left` rows the next tile takes, so that tiles are of nearly equal height.
RECURRA_INLINE int next_tile(i64 left) {
    const i64 tiles = ceil_div(left, tile_rows);
    return static_cast<int>(ceil_div(left, tiles));
}

// Calls f with an integral constant for the number 1..tile_rows that is known only when running.
template <int n>
struct Constant {
    static constexpr int value = n;
};
template <class F>
RECURRA_INLINE void with_height(int rows, F&& f) {
    switch (rows) {
        case 1: return f(Constant<1>());
        case 2: return f(Constant<2>());
        case 3: return f(Constant<3>());
        case 4:
            if constexpr (tile_rows > 3) return f(Constant<4>());
            else return;
        case 5:
            if constexpr (tile_rows > 3) return f(Constant<5>());
            else return;
        case 6:
            if constexpr (tile_rows > 3) return f(Constant<6>());
            else return;
    }
}
template <class F>
RECURRA_INLINE void with_width(i64 vectors, F&& f) {
    switch (vectors) {
        case 1: return f(Constant<1>());
        case 2: return f(Constant<2>());
        case 3: return f(Constant<3>());
        default: return f(Constant<panel_vectors>());
    }
}

// A right factor (K, columns) packed in panels of up to panel_vectors vectors of columns, one panel after
// another; each holds its K rows one after another, the last vector filled up with zeros.
struct Panels {
    const float* data;
    i64 depth, columns;  // K in words, columns

    i64 vectors() const { return ceil_div(columns, lanes); }
    i64 count() const { return ceil_div(vectors(), panel_vectors); }
    i64 width(i64 panel) const { return smaller(panel_vectors, vectors() - panel * panel_vectors); }
    const float* at(i64 panel, i64 k) const {
        return data + panel * panel_vectors * lanes * depth + k * width(panel) * lanes;
    }
};

constexpr i64 panels_size(i64 depth, i64 columns) { return depth * round_up(columns, lanes); }

template <int MR, int NV>
RECURRA_NOINLINE void product_tile(const float* const* rows, Runs runs, const float* w, float* const* out,
                                   i64 column, i64 columns, bool add) {
    V acc[MR][NV];
    RECURRA_UNROLL
    for (int m = 0; m < MR; m++) {
        RECURRA_UNROLL
        for (int n = 0; n < NV; n++)
            acc[m][n] = add ? load(out[m] + column + n * lanes, smaller(lanes, columns - n * lanes)) : V{};
    }
    accumulate<MR, 1, NV, NV, 0, NV>(acc, rows, runs, w, 0);
    RECURRA_UNROLL
    for (int m = 0; m < MR; m++) {
        RECURRA_UNROLL
        for (int n = 0; n < NV; n++)
            store(out[m] + column + n * lanes, acc[m][n], smaller(lanes, columns - n * lanes));
    }
}

// out[i] (+)= rows[i] · panels for i < count, in panels first..last, taking the panels' rows from k on.
RECURRA_INLINE void product(const float* const* rows, Runs runs, const Panels& panels, i64 k, i64 first,
                            i64 last, float* const* out, i64 count, bool add) {
    for (i64 panel = first; panel < last; panel++)
        with_width(panels.width(panel), [&](auto width) {
            const i64 column = panel * panel_vectors * lanes;
            for (i64 i = 0; i < count;) {
                const int height = next_tile(count - i);
                with_height(height, [&](auto rows_now) {
                    product_tile<decltype(rows_now)::value, decltype(width)::value>(
                        rows + i, runs, panels.at(panel, k), out + i, column, panels.columns - column, add);
                });
                i += height;
            }
        });
}

}  // namespace
}  // namespace recurra::RECURRA_ISA
